"""The folder job and the one-file job: Stable Diffusion image-to-image over files, through the deployed app."""
