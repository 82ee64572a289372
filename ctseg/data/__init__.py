"""From scans to batches on the device: readers, preparation, sampling, augmentation."""
