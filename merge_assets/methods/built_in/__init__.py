"""The merge methods of this package, one a file that is called as the method is. A new file is found without a list."""
