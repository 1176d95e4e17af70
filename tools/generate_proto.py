"""Make everything that is generated from protos/: the client stubs and the server's contract.

The stubs carry no field rules: a client that had them would have to register ``buf/validate/validate.proto`` in its
process, where any other library's copy of that file would clash with ours. The rules go to the server instead, as one
descriptor set. See docs/decisions/0003.

Run by ``make proto``; CI runs it again and fails when a byte differs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "clients" / "python" / "ownkey" / "v1"
CONTRACT = ROOT / "server" / "ownkey_server" / "rpc" / "contract.binpb"
RULES_FILE = "buf/validate/validate.proto"
INIT = '"""Generated from protos/ownkey/v1 by `make proto`."""\n'


def protoc(*arguments: str) -> None:
    """Run the compiler of grpcio-tools with the plugins of this environment."""
    bin_dir = Path(sys.executable).parent
    plugins = [f"--plugin={name}={bin_dir / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *plugins, *arguments], check=True)


def without_rules(contract: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """The same contract with every custom option taken out, and the file that declares them."""
    plain = descriptor_pb2.FileDescriptorSet()
    for file in contract.file:
        if file.name == RULES_FILE:
            continue
        copy = plain.file.add()
        copy.CopyFrom(file)
        kept = [name for name in file.dependency if name != RULES_FILE]
        del copy.dependency[:]
        copy.dependency.extend(kept)
        for message in copy.message_type:
            _strip_message(message)
    return plain


def _strip_message(message: descriptor_pb2.DescriptorProto) -> None:
    # The rules are extensions that this process does not know, so they are unknown fields of the options.
    message.options.DiscardUnknownFields()
    for field in message.field:
        field.options.DiscardUnknownFields()
    for oneof in message.oneof_decl:
        oneof.options.DiscardUnknownFields()
    for nested in message.nested_type:
        _strip_message(nested)


def main() -> None:
    """Generate into the work tree, replacing what was there."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "ownkey").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.binpb"
        protoc(f"-I{PROTOS}", "--include_imports", f"--descriptor_set_out={full}", *sources)
        with_comments = Path(scratch) / "comments.binpb"
        protoc(
            f"-I{PROTOS}",
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={with_comments}",
            *sources,
        )
        plain = Path(scratch) / "plain.binpb"
        contract = descriptor_pb2.FileDescriptorSet.FromString(with_comments.read_bytes())
        plain.write_bytes(without_rules(contract).SerializeToString(deterministic=True))
        out = Path(scratch) / "out"
        out.mkdir()
        outs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        protoc(f"--descriptor_set_in={plain}", *outs, *sources)
        shutil.rmtree(STUBS, ignore_errors=True)
        STUBS.mkdir(parents=True)
        (STUBS / "__init__.py").write_text(INIT, encoding="utf-8")
        for stub in sorted((out / "ownkey" / "v1").iterdir()):
            # Only services have methods; the other files' gRPC modules would be empty.
            if "_pb2_grpc" in stub.name and "_service_" not in stub.name:
                continue
            shutil.copyfile(stub, STUBS / stub.name)
        CONTRACT.write_bytes(full.read_bytes())
    print(f"{len(list(STUBS.iterdir()))} files in {STUBS.relative_to(ROOT)}, {CONTRACT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
