"""The step engine: many img2img requests in one UNet batch, one denoise step at a time. Knows no Ray, no HTTP."""
