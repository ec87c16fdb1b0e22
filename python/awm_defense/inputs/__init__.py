"""Images and labels as people have them: tensors, arrays, pictures, data sets, folders."""
