//! Compiles the files in `proto` with protox, so that no protoc has to be installed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 7] = [
    "authpb.proto",
    "health.proto",
    "leasepb.proto",
    "membershippb.proto",
    "mvccpb.proto",
    "raft_internal.proto",
    "rpc.proto",
];

/// Messages that hold a secret; `secret.rs` writes their `Debug`, so that no log shows it.
const SECRETS: [&str; 6] = [
    ".authpb.User",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthenticateResponse",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
    ".etcdserverpb.InternalAuthenticateRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(FILES, ["proto"])?;
    write_descriptors(&descriptors)?;

    // etcd's names go out in JSON and stay in the proto files. In Rust, `peerURLs` would become
    // `peer_ur_ls`.
    for file in &mut descriptors.file {
        for field in file.message_type.iter_mut().flat_map(|m| &mut m.field) {
            if let Some(name) = field.name.as_mut().filter(|name| name.ends_with("URLs")) {
                *name = name.replace("URLs", "_urls");
            }
        }
    }

    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .skip_debug(SECRETS)
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(descriptors)?;
    Ok(())
}

/// `FILE_DESCRIPTOR_SET`: the descriptors with etcd's names, without comments.
fn write_descriptors(
    descriptors: &prost_types::FileDescriptorSet,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut descriptors = descriptors.clone();
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let path = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(path, descriptors.encode_to_vec())?;
    Ok(())
}
