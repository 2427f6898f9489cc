//! GPUs, through the driver's library, which is looked for at run time. Nothing here fails for want of one: it says what is missing.
#![expect(unsafe_code, reason = "the driver is asked whether it is there, and for memory that it has not filled")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use cudarc::driver::{CudaContext, PinnedHostSlice, result, sys};

use super::pci::{self, Address};

/// All GPUs, or why there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By number.
    pub gpus: Vec<Gpu>,
    /// What the driver supports, as `12.8`; empty without a driver.
    pub cuda: String,
    /// Why there are none, or why one is left out; empty when nothing is amiss.
    pub note: String,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number to the driver.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// What of it nobody uses at this moment.
    pub free_bytes: u64,
    /// What it can do, as `9.0`.
    pub compute_capability: String,
    /// The memory node that it is nearest to; 0 where nobody knows.
    pub memory_node: u32,
}

/// Asks the driver. This may take a while for the first time, and must not run where waiting is forbidden.
pub fn inventory() -> Inventory {
    let without = |note: String| Inventory { note, ..Inventory::default() };
    guarded(|| {
        require_driver()?;
        let count = CudaContext::device_count().map_err(|error| told(&error))?;
        let mut inventory = Inventory { cuda: version()?, ..Inventory::default() };
        for ordinal in 0..u32::try_from(count).unwrap_or(0) {
            match gpu(ordinal) {
                Ok(gpu) => inventory.gpus.push(gpu),
                Err(problem) => inventory.note = format!("GPU {ordinal} does not answer: {problem}"),
            }
        }
        if count == 0 {
            inventory.note = "the driver is there, and no GPU is".to_owned();
        }
        Ok(inventory)
    })
    .unwrap_or_else(without)
}

/// A GPU that is in use by this process until this is dropped.
#[derive(Clone, Debug)]
pub struct Device {
    context: Arc<CudaContext>,
}

impl Device {
    /// Opens a GPU by its number.
    pub fn open(ordinal: u32) -> Result<Self, String> {
        guarded(|| {
            require_driver()?;
            let context = CudaContext::new(ordinal as usize).map_err(|error| told(&error))?;
            Ok(Self { context })
        })
    }

    pub(super) const fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Memory of this machine that the GPU reads and writes without the system's help: twice as fast to copy as other memory, and
    /// never swapped out, so it is not to be had in large amounts.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, String> {
        guarded(|| {
            if bytes == 0 || isize::try_from(bytes).is_err() {
                return Err("pinned memory of no or impossible size".to_owned());
            }
            // Memory that is written in combination would be slow to read, and answers are read from it, too.
            // SAFETY: nothing reads the memory before the line below has filled it.
            let allocated = unsafe { self.context.alloc_pinned_with_flags::<u8>(bytes, 0) };
            let mut memory = allocated.map_err(|error| told(&error))?;
            memory.as_mut_slice().map_err(|error| told(&error))?.fill(0);
            Ok(Pinned { memory })
        })
    }
}

/// Page-locked memory. It waits for copies under way before it is read, written or freed.
#[derive(Debug)]
pub struct Pinned {
    memory: PinnedHostSlice<u8>,
}

impl Pinned {
    /// Its content.
    pub fn bytes(&self) -> Result<&[u8], String> {
        self.memory.as_slice().map_err(|error| told(&error))
    }

    /// Its content, to be changed.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], String> {
        self.memory.as_mut_slice().map_err(|error| told(&error))
    }

    pub(super) const fn slice(&self) -> &PinnedHostSlice<u8> {
        &self.memory
    }

    pub(super) const fn slice_mut(&mut self) -> &mut PinnedHostSlice<u8> {
        &mut self.memory
    }
}

/// The binding panics where a library lacks what it looks up; that is no more than an answer here.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the driver is too old for this build".to_owned()))
}

pub(super) fn told(error: &result::DriverError) -> String {
    let name = error.error_name().ok().and_then(|name| name.to_str().ok());
    format!("the driver answers {}", name.unwrap_or("an unknown error"))
}

/// Without this, the first call of the binding would panic.
fn require_driver() -> Result<(), String> {
    // SAFETY: it loads a library that initialises nothing of its own, and lets go of it.
    let is_there = unsafe { sys::is_culib_present() };
    if is_there { Ok(()) } else { Err("libcuda is not there: no NVIDIA driver is installed".to_owned()) }
}

fn version() -> Result<String, String> {
    let mut version = 0;
    // SAFETY: it writes one number to where it is told, which lives as long as the call.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(|error| told(&error))?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn gpu(ordinal: u32) -> Result<Gpu, String> {
    let context = CudaContext::new(ordinal as usize).map_err(|error| told(&error))?;
    let facts = || -> Result<Gpu, result::DriverError> {
        let (free, total) = context.mem_get_info()?;
        let (major, minor) = context.compute_capability()?;
        let memory_node = address(&context)?.and_then(|address| pci::memory_node(Path::new("/"), address));
        Ok(Gpu {
            ordinal,
            name: context.name()?,
            memory_bytes: total as u64,
            free_bytes: free as u64,
            compute_capability: format!("{major}.{minor}"),
            memory_node: memory_node.unwrap_or(0),
        })
    };
    facts().map_err(|error| told(&error))
}

/// Where it is on the bus; `None` where the driver tells what cannot be.
fn address(context: &CudaContext) -> Result<Option<Address>, result::DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
    };
    let domain = u16::try_from(context.attribute(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?);
    let bus = u8::try_from(context.attribute(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?);
    let device = u8::try_from(context.attribute(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?);
    let (Ok(domain), Ok(bus), Ok(device)) = (domain, bus, device) else { return Ok(None) };
    Ok(Some(Address { domain, bus, device }))
}
