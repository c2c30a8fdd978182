//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data (ATA8-ACS, 7.16 and 7.17).

use super::drive::{DmaMode, Drive, MAX_MULTIPLE};
use crate::checksum::checksum;

/// Bytes of IDENTIFY DEVICE data.
pub const LEN: usize = 512;
/// The most sectors that a 28-bit LBA reaches.
pub const LBA28_SECTORS: u64 = 0x0fff_ffff;
/// The most blocks of ranges in one DATA SET MANAGEMENT command.
pub const MAX_TRIM_BLOCKS: u16 = 8;

const MODEL: &str = "STRATA HARDDISK";
const CDROM_MODEL: &str = "STRATA DVD-ROM";
const FIRMWARE: &str = "1.0";

const SMART: u16 = 1 << 0;
/// Of word 84: SMART's error log and self-test.
const SMART_LOGS: u16 = 0b11;
const LOGS_EXT: u16 = 1 << 5;
const WWN: u16 = 1 << 8;
const PACKET: u16 = 1 << 4;
const DEVICE_RESET: u16 = 1 << 9;
const POWER_MANAGEMENT: u16 = 1 << 3;
const WRITE_CACHE: u16 = 1 << 5;
const LOOK_AHEAD: u16 = 1 << 6;
const NOP: u16 = 1 << 14;
const LBA48: u16 = 1 << 10;
const FLUSH: u16 = 1 << 12;
const FLUSH_EXT: u16 = 1 << 13;
const FUA: u16 = 1 << 6;
/// Bit 14 set and 15 clear say that a word of feature bits is valid.
const VALID: u16 = 1 << 14;

struct Words([u16; LEN / 2]);

impl Words {
    fn put(&mut self, word: usize, value: u16) {
        self.0[word] = value;
    }

    fn put_u32(&mut self, word: usize, value: u32) {
        let [a, b, c, d] = value.to_le_bytes();
        self.put(word, u16::from_le_bytes([a, b]));
        self.put(word + 1, u16::from_le_bytes([c, d]));
    }

    /// The words as they travel. The last one holds a signature, and a byte that makes the sum of
    /// all bytes zero.
    fn into_bytes(self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes[LEN - 2] = 0xa5;
        bytes[LEN - 1] = checksum(&bytes);
        bytes
    }

    /// Text, padded with blanks; the first of two characters is in a word's high byte.
    fn put_text(&mut self, word: usize, words: usize, text: &str) {
        let printable = |byte: u8| if byte.is_ascii_graphic() { byte } else { b' ' };
        let mut bytes = text.bytes().map(printable).chain(std::iter::repeat(b' '));
        for slot in &mut self.0[word..word + words] {
            let mut next = || bytes.next().unwrap_or(b' ');
            *slot = u16::from_be_bytes([next(), next()]);
        }
    }
}

/// The data for `drive` as it is now.
pub fn data(drive: &Drive) -> Vec<u8> {
    let mut words = Words([0; LEN / 2]);
    put_identity(&mut words, drive);
    put_capacity(&mut words, drive);
    put_modes(&mut words, drive);
    put_features(&mut words, drive);
    words.into_bytes()
}

/// The data for `drive`, which is a CD drive.
pub fn packet_data(drive: &Drive) -> Vec<u8> {
    const FEATURES: u16 = PACKET | DEVICE_RESET | POWER_MANAGEMENT;
    let mut words = Words([0; LEN / 2]);
    // ATAPI, CD-ROM, removable; takes a command within 50 us, of 12 bytes.
    words.put(0, 0x85c0);
    put_names(&mut words, drive, CDROM_MODEL);
    words.put(49, 0x0f00); // DMA, LBA, IORDY
    words.put(50, VALID);
    words.put(51, 0x0200); // PIO mode 2 without IORDY
    words.put(53, 0x0006); // words 64-70 and 88 are valid
    put_dma(&mut words, drive);
    words.put(80, 0x01f0); // ATA/ATAPI-4 to ATA8-ACS
    words.put(82, FEATURES);
    words.put(83, VALID);
    words.put(84, VALID);
    words.put(85, FEATURES);
    words.put(87, VALID);
    put_wwn(&mut words, drive);
    words.into_bytes()
}

fn put_identity(words: &mut Words, drive: &Drive) {
    words.put(0, 0x0040); // ATA, not removable
    put_names(words, drive, MODEL);
    words.put(80, 0x01f0); // ATA/ATAPI-4 to ATA8-ACS
    // Turns in a minute; 1 for none.
    words.put(217, if drive.options.rotational { 7200 } else { 1 });
}

/// The name, its most significant word first, and that there is one.
fn put_wwn(words: &mut Words, drive: &Drive) {
    let Some(name) = drive.options.wwn else {
        return;
    };
    for (word, bytes) in (108..112).zip(name.to_be_bytes().as_chunks().0) {
        words.put(word, u16::from_be_bytes(*bytes));
    }
    for word in [84, 87] {
        words.0[word] |= WWN;
    }
}

fn put_names(words: &mut Words, drive: &Drive, model: &str) {
    words.put_text(10, 10, &drive.serial);
    words.put_text(23, 4, FIRMWARE);
    words.put_text(27, 20, model);
}

fn put_capacity(words: &mut Words, drive: &Drive) {
    let default = drive.default_geometry();
    words.put(1, default.cylinders);
    words.put(3, default.heads.into());
    words.put(6, default.sectors.into());
    let current = drive.geometry;
    let reached =
        u32::from(current.cylinders) * u32::from(current.heads) * u32::from(current.sectors);
    words.put(54, current.cylinders);
    words.put(55, current.heads.into());
    words.put(56, current.sectors.into());
    words.put_u32(57, reached);
    let by_lba28 = drive.announced().min(LBA28_SECTORS);
    words.put_u32(60, u32::try_from(by_lba28).expect("28 bits"));
    let [a, b, c, d, e, f, g, h] = drive.announced().to_le_bytes();
    words.put_u32(100, u32::from_le_bytes([a, b, c, d]));
    words.put_u32(102, u32::from_le_bytes([e, f, g, h]));
    // Sectors are of 512 bytes; so many of them are a physical one.
    const SEVERAL: u16 = 1 << 13;
    words.put(
        106,
        match drive.physical_exponent {
            0 => VALID,
            exponent => VALID | SEVERAL | u16::from(exponent),
        },
    );
}

fn put_modes(words: &mut Words, drive: &Drive) {
    const MULTIPLE_VALID: u16 = 1 << 8;
    words.put(47, 0x8000 | u16::from(MAX_MULTIPLE));
    words.put(49, 0x0f00); // DMA, LBA, IORDY
    words.put(50, VALID);
    words.put(51, 0x0200); // PIO mode 2 without IORDY
    words.put(53, 0x0007); // words 54-58, 64-70 and 88 are valid
    if drive.multiple != 0 {
        words.put(59, MULTIPLE_VALID | u16::from(drive.multiple));
    }
    put_dma(words, drive);
}

/// Transfer modes and their times.
fn put_dma(words: &mut Words, drive: &Drive) {
    let (multiword, ultra) = match drive.dma_mode {
        DmaMode::Multiword(mode) => (1 << (8 + mode), 0),
        DmaMode::Ultra(mode) => (0, 1 << (8 + mode)),
    };
    words.put(63, 0x0007 | multiword);
    words.put(64, 0x0003); // PIO modes 3 and 4
    for cycle_time in 65..=68 {
        words.put(cycle_time, 120); // ns
    }
    words.put(88, 0x003f | ultra);
    // 80-conductor cable, and what a reset of this drive or of its cable's other one has found.
    let is_second = drive.place % 2 == 1;
    words.put(93, if is_second { 0x6100 } else { 0x6001 });
}

fn put_features(words: &mut Words, drive: &Drive) {
    let supported = SMART | NOP | POWER_MANAGEMENT | WRITE_CACHE | LOOK_AHEAD;
    words.put(82, supported);
    words.put(83, VALID | LBA48 | FLUSH | FLUSH_EXT);
    let extended = FUA | SMART_LOGS | LOGS_EXT;
    words.put(84, VALID | extended);
    let mut enabled = supported & !(SMART | WRITE_CACHE | LOOK_AHEAD);
    if drive.smart.is_enabled() {
        enabled |= SMART;
    }
    if drive.write_cache {
        enabled |= WRITE_CACHE;
    }
    if drive.look_ahead {
        enabled |= LOOK_AHEAD;
    }
    words.put(85, enabled);
    words.put(86, LBA48 | FLUSH | FLUSH_EXT);
    words.put(87, VALID | extended);
    put_wwn(words, drive);
    if drive.trim {
        words.put(105, MAX_TRIM_BLOCKS);
        words.put(169, 1);
    }
}
