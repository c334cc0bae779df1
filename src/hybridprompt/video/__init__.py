"""Pictures, files, encoders and decoders. PyAV lives here and nowhere else."""
