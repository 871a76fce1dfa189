"""What the papers found: one module a section, one test a finding, judged on every case."""
