"""What a checkpoint is: opening one, and everything that differs between the families of models.

`checkpoint` opens files and says no to what cannot be served. `families` picks the family by the checkpoint's pipeline
class; each family is one file (`stable_diffusion`, `sdxl`), made of `unet`, `vae`, `prompts`, `samplers`, `lora`,
`preview` and the rules of `devices`.
"""
