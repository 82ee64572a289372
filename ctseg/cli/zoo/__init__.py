"""`ctseg zoo`: commands for published weights."""
