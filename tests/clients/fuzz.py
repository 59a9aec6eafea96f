"""Requests made from the OpenAPI document of a running server, valid and wrong ones: fuzz.py URL [EXAMPLES]

Fails on a status of 500 or above, on a status or content type that the document does not have, and on an answer that its
schema does not allow. Needs the package `schemathesis`.
"""

import subprocess
import sys
import tempfile

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main():
    url, examples = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "50"
    with tempfile.TemporaryDirectory() as folder:  # It leaves notes of its own where it runs.
        run(url, examples, folder)


def run(url, examples, folder):
    sys.exit(subprocess.run([
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS, "--max-examples", examples,
        "--phases", "coverage,fuzzing", "--seed", "1", "--workers", "1", "--request-timeout", "60", "--no-color",
    ], cwd=folder).returncode)


main()
