//! Which memory a device on the PCI bus is nearest to.

use std::fs;
use std::path::Path;

/// Where a device is on the bus; devices that compute have one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The bus's domain.
    pub domain: u16,
    /// The bus.
    pub bus: u8,
    /// The slot.
    pub device: u8,
}

/// The node, as the kernel tells below `root`; `None` where it does not know, as on machines with one.
pub fn memory_node(root: &Path, address: Address) -> Option<u32> {
    let Address { domain, bus, device } = address;
    let file = format!("sys/bus/pci/devices/{domain:04x}:{bus:02x}:{device:02x}.0/numa_node");
    // What is not known is -1.
    fs::read_to_string(root.join(file)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_node() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| {
            let folder = root.path().join("sys/bus/pci/devices").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("numa_node"), content).unwrap();
        };
        put("0000:3b:00.0", "1\n");
        put("0001:af:1f.0", "3\n");
        put("0000:00:02.0", "-1\n");
        let node = |domain, bus, device| memory_node(root.path(), Address { domain, bus, device });
        assert_eq!(node(0, 0x3b, 0), Some(1));
        assert_eq!(node(1, 0xaf, 0x1f), Some(3));
        assert_eq!(node(0, 0, 2), None);
        assert_eq!(node(0, 9, 9), None);
    }
}
