"""What every question stands on: passes over the images, columns, results."""
