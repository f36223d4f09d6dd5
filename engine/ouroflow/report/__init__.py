"""What a run leaves behind: tables, summary and run record, written whole or not at all."""
