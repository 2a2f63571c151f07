"""The step engine: many img2img requests in one denoiser batch, one step at a time. It knows no Ray and no HTTP.

Read the core in this order:

    request     what was asked, what came of it (frozen)
    state       how far one request has come; the step batch
    scheduler   who is encoded, and which rows share the next forward
    sampling    one step of any sampler, as linear maps of rows
    runner      turns request states into calls of the networks
    engine      step(): schedule, encode, denoise one step, decode

Beside it: `networks` (the protocols that a model family implements, but for `state.RowCondition`), `step_times`,
`transfers`, `errors` and `async_engine` (the engine in its own thread, awaited from an event loop). `models/` holds the
families, `accel/` the faster backends; the core imports neither.
"""
