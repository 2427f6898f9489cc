//! What there is to compute with: processors as far as this process may use them, and GPUs, found through libcuda, which is
//! loaded at run time. Without it everything else works, and [`gpu::inventory`] says so.
//!
//! [`prepare`] turns what sensors and decoders give into what models take, on a processor; [`kernel`] does the same on a GPU, to the bit.

pub mod cpu;
pub mod gpu;
pub mod group;
pub mod kernel;
pub mod pci;
pub mod prepare;
