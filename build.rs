//! Compiles `proto/` without a protoc on the machine.

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["kv.proto", "auth.proto", "rpc.proto", "lock.proto", "election.proto", "health.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .extern_path(".etcdserverpb.TxnRequest", "crate::proto::etcdserverpb::TxnRequest")
        .compile_fds(descriptors)?;
    Ok(())
}
