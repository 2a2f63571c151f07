"""The step engine: runs many img2img requests in one UNet batch, one denoise step at a time. Knows no Ray and no HTTP."""
