//! Writes the custom resource definitions into a folder: `cargo run -p koi-core --example crds -- crds`.

use std::path::PathBuf;
use std::{env, fs, process};

use koi_core::api::crd_documents;

fn main() {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprint("usage: crds <folder>");
    };
    for document in crd_documents() {
        let Some(name) = document["metadata"]["name"].as_str() else {
            eprint("a definition without a name")
        };
        let path = folder.join(format!("{name}.yaml"));
        let written = serde_yaml::to_string(&document)
            .map_err(|error| error.to_string())
            .and_then(|text| fs::write(&path, text).map_err(|error| error.to_string()));
        if let Err(error) = written {
            eprint(&format!("{}: {error}", path.display()));
        }
    }
}

#[allow(clippy::print_stderr)]
fn eprint(message: &str) -> ! {
    eprintln!("{message}");
    process::exit(2)
}
