"""The paper's tables and figures made again, its numbers beside ours."""
