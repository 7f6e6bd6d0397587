//! Compiles `proto/` without a protoc on the machine, and packs the nats-server that jetway is to carry.

use flate2::{Compression, write::DeflateEncoder};
use protox::prost::Message;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Names the nats-server to carry. Without it jetway carries none, and the build packs nothing.
const CARRY: &str = "JETWAY_EMBED_NATS_SERVER";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-env-changed={CARRY}");
    let files = ["kv.proto", "auth.proto", "rpc.proto", "lock.proto", "election.proto", "health.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::proto::MessageCodec")
        .bytes(".")
        .extern_path(".etcdserverpb.TxnRequest", "crate::proto::etcdserverpb::TxnRequest")
        .compile_fds(descriptors)?;
    let carried = match std::env::var_os(CARRY).filter(|path| !path.is_empty()) {
        None => "None".to_owned(),
        Some(path) => {
            carried(Path::new(&path), &out).map_err(|error| format!("{CARRY}={path:?}: {error}"))?
        }
    };
    std::fs::write(
        out.join("carried.rs"),
        format!("pub(super) const CARRIED: Option<Carried> = {carried};\n"),
    )?;
    Ok(())
}

/// Packs the nats-server. Returns the value of the constant.
fn carried(path: &Path, out: &Path) -> Result<String, Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", path.display());
    let program = std::fs::read(path)?;
    let (version, sha256) = (version(&program)?, Sha256::digest(&program));
    let packed = out.join("nats-server.deflate");
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&program)?;
    std::fs::write(&packed, encoder.finish()?)?;
    Ok(format!(
        "Some(Carried {{ version: {version:?}, sha256: \"{sha256:x}\", deflated: include_bytes!({packed:?}) }})"
    ))
}

/// The version of the module in the build information that Go puts into each program. Asking the program
/// itself would not do: it may be one for another machine.
fn version(program: &[u8]) -> Result<String, Box<dyn Error>> {
    const MODULE: &[u8] = b"\tgithub.com/nats-io/nats-server/v2\tv";
    let found = program.windows(MODULE.len()).position(|window| window == MODULE);
    let version = &program[found.ok_or("no Go program with nats-server in it")? + MODULE.len()..];
    let end = version.iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(0);
    Ok(std::str::from_utf8(&version[..end])?.to_owned())
}
