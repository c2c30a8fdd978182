use super::*;

const MEMORY: usize = 1 << 20;
/// Where requests are put, and where they are to copy to.
const REQUEST: u64 = 0x1000;
const TARGET: u64 = 0x2000;

struct Rig {
    device: FwCfg,
    memory: Arc<GuestMemoryMmap>,
}

impl Rig {
    fn new() -> Self {
        let mut items = FwCfgItems::new(512 << 20, 3);
        items.add_file("etc/b", vec![7, 8, 9]);
        items.add_file("bootorder", b"/a\n/b\0".to_vec());
        let range = (GuestAddress(0), MEMORY);
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&[range]).unwrap());
        let device = FwCfg::new(items, memory.clone());
        Self { device, memory }
    }

    fn select(&mut self, number: u16) {
        self.device.write(0, &number.to_le_bytes());
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut byte = [0xee];
        let mut next = || {
            self.device.read(1, &mut byte);
            byte[0]
        };
        (0..len).map(|_| next()).collect()
    }

    fn item(&mut self, number: u16, len: usize) -> Vec<u8> {
        self.select(number);
        self.read(len)
    }

    /// Puts a request into memory and rings; what the control field says then.
    fn dma(&mut self, control: u32, len: u32, address: u64) -> u32 {
        let mut request = control.to_be_bytes().to_vec();
        request.extend(len.to_be_bytes());
        request.extend(address.to_be_bytes());
        let at = GuestAddress(REQUEST);
        self.memory.write_slice(&request, at).unwrap();
        self.ring(REQUEST);
        let mut answer = [0; 4];
        self.memory.read_slice(&mut answer, at).unwrap();
        u32::from_be_bytes(answer)
    }

    fn ring(&mut self, address: u64) {
        let [high, low] = [(address >> 32) as u32, address as u32];
        self.device.write(4, &high.to_be_bytes());
        self.device.write(8, &low.to_be_bytes());
    }

    fn at(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let at = GuestAddress(address);
        self.memory.read_slice(&mut bytes, at).unwrap();
        bytes
    }
}

const SELECT_AND_READ: u32 = control::SELECT | control::READ;

#[test]
fn firmware_finds_the_device_and_what_it_can_do() {
    let mut rig = Rig::new();
    assert_eq!(rig.item(0, 4), b"QEMU");
    assert_eq!(rig.item(1, 4), [3, 0, 0, 0]);
    let mut signature = [0; 4];
    rig.device.read(4, &mut signature);
    assert_eq!(&signature, b"QEMU");
    rig.device.read(8, &mut signature);
    assert_eq!(&signature, b" CFG");
}

#[test]
fn the_machine_s_size_is_told() {
    let mut rig = Rig::new();
    assert_eq!(rig.item(3, 8), (512u64 << 20).to_le_bytes());
    assert_eq!(rig.item(5, 2), [3, 0]);
    assert_eq!(rig.item(15, 2), [3, 0]);
}

#[test]
fn files_are_found_in_the_directory_by_name() {
    let mut rig = Rig::new();
    let directory = rig.item(0x19, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    let found: Vec<_> = directory[4..].chunks(64).collect();
    for (entry, name, content) in [
        (found[0], "bootorder", &b"/a\n/b\0"[..]),
        (found[1], "etc/b", &[7, 8, 9]),
    ] {
        let mut padded = [0; 56];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        assert_eq!(entry[8..], padded);
        assert_eq!(entry[..4], (content.len() as u32).to_be_bytes());
        let number = u16::from_be_bytes([entry[4], entry[5]]);
        assert_eq!(rig.item(number, content.len()), content);
    }
}

#[test]
fn behind_an_item_and_in_unknown_ones_there_are_zeros() {
    let mut rig = Rig::new();
    assert_eq!(rig.item(0, 6), b"QEMU\0\0");
    assert_eq!(rig.item(0x1234, 3), [0; 3]);
    assert_eq!(rig.item(0, 2), b"QE", "selecting begins at the start");
    rig.device.reset();
    assert_eq!(rig.read(4), b"QEMU");
}

#[test]
fn dma_copies_an_item() {
    let mut rig = Rig::new();
    assert_eq!(rig.dma(SELECT_AND_READ, 4, TARGET), 0);
    assert_eq!(rig.at(TARGET, 4), b"QEMU");
    // The two files are 0x20 and 0x21; the second one by parts.
    rig.select(0x21);
    assert_eq!(rig.dma(control::SKIP, 1, 0), 0);
    assert_eq!(rig.dma(control::READ, 1, TARGET), 0);
    assert_eq!(rig.at(TARGET, 2), [8, b'E']);
    assert_eq!(rig.dma(control::READ, 3, TARGET), 0);
    assert_eq!(rig.at(TARGET, 4), [9, 0, 0, b'U']);
}

#[test]
fn nothing_can_be_written() {
    let mut rig = Rig::new();
    let write = control::SELECT | control::WRITE;
    assert_eq!(rig.dma(write, 4, TARGET), control::ERROR);
    rig.device.write(1, &[0xaa]);
    assert_eq!(rig.item(0, 4), b"QEMU");
}

#[test]
fn dma_to_where_no_memory_is_fails() {
    let mut rig = Rig::new();
    let end = MEMORY as u64;
    for address in [end, end - 2, u64::MAX, u64::MAX - 3] {
        let answer = rig.dma(SELECT_AND_READ, 4, address);
        assert_eq!(answer, control::ERROR, "{address:#x}");
        let answer = rig.dma(control::READ, 64, address);
        assert_eq!(answer, control::ERROR, "{address:#x}");
    }
}

#[test]
fn requests_outside_of_memory_change_nothing() {
    let mut rig = Rig::new();
    let before = rig.at(0, MEMORY);
    for address in [MEMORY as u64, MEMORY as u64 - 8, 1 << 32, u64::MAX] {
        rig.ring(address);
    }
    let mut after = rig.at(0, MEMORY);
    // For the one that begins in memory the failure is reported.
    let at = MEMORY - 8;
    assert_eq!(after[at..at + 4], control::ERROR.to_be_bytes());
    after[at..at + 4].copy_from_slice(&before[at..at + 4]);
    assert!(before == after);
}

#[test]
fn lengths_are_bounded() {
    let mut rig = Rig::new();
    let longest = u32::MAX;
    assert_eq!(rig.dma(SELECT_AND_READ, longest, 0), control::ERROR);
    rig.select(0);
    for _ in 0..3 {
        assert_eq!(rig.dma(control::SKIP, longest, 0), 0);
    }
    assert_eq!(rig.read(2), [0, 0]);
    // Nothing but a selection is no error, whatever else it says.
    assert_eq!(rig.dma(control::SELECT, longest, u64::MAX), 0);
    assert_eq!(rig.read(4), b"QEMU");
}

#[test]
fn accesses_of_other_widths_mean_nothing() {
    let mut rig = Rig::new();
    rig.select(0);
    for (offset, data) in [
        (0, &[1][..]),
        (0, &[1, 0, 0, 0]),
        (2, &[1, 0]),
        (4, &[0; 8]),
        (8, &[0; 2]),
        (10, &[0; 2]),
    ] {
        rig.device.write(offset, data);
    }
    let mut wide = [0; 2];
    rig.device.read(1, &mut wide);
    assert_eq!(wide, [0xff; 2]);
    rig.device.read(11, &mut wide);
    assert_eq!(rig.read(4), b"QEMU");
}
