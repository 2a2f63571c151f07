"""What was requested and what came of it: jobs, results, and results.jsonl as the ledger of both."""
