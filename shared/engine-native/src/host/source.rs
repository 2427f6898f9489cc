//! A model's file as a descriptor: it is opened once, checked, and handed over, so that what was checked is what is loaded.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};

use rustix::fs::{MemfdFlags, SealFlags};
use weft_engine::{Error, MAX_FILE_BYTES, Source, format};

/// The longest file of any engine: beyond any machine's memory.
const LONGEST: u64 = 1 << 40;

/// An open model file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) length: u64,
}

/// Opens a model and checks it by the rules of its format. It reads the file, so it must run where that may block.
pub(super) fn open(source: &Source, engine: &str) -> Result<Opened, Error> {
    let failed = |error: io::Error| Error::Load(format!("the model file cannot be read ({})", error.kind()));
    let is_onnx = matches!(engine, "onnxruntime" | "tract");
    let (file, length) = match source {
        Source::Builtin if is_onnx || engine == "llama" => {
            return Err(Error::Load("this engine has no models of its own".to_owned()));
        }
        Source::Builtin => (in_memory(&[]).map_err(failed)?, 0),
        Source::Bytes(bytes) => (in_memory(bytes).map_err(failed)?, bytes.len() as u64),
        Source::File(path) => format::open_plain(path, if is_onnx { MAX_FILE_BYTES } else { LONGEST })?,
        Source::Open(file) => {
            let file = file.try_clone().map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            (file, length)
        }
    };
    if is_onnx {
        format::onnx::check(&file)?;
    } else if engine == "llama" {
        format::gguf::check(&file)?;
    }
    (&file).rewind().map_err(failed)?;
    Ok(Opened { file, length })
}

/// Bytes as a file that nobody can change any more.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("weft-model", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}
