use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::{bench::info, driver::*};

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// Capabilities as (id, offset, bytes).
fn capabilities(driver: &mut Driver) -> Vec<(u8, u8, [u8; 20])> {
    let mut found = Vec::new();
    let [mut at] = driver.config_read::<1>(0x34);
    while at != 0 {
        let mut bytes = [0; 20];
        for (i, byte) in bytes.iter_mut().enumerate() {
            [*byte] = driver.config_read(at + i as u8);
        }
        found.push((bytes[0], at, bytes));
        at = bytes[1];
    }
    found
}

fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn capabilities_say_where_everything_is() {
    let mut driver = Driver::unready(info(), 2);
    assert_eq!(driver.config_read(0), [0xf4, 0x1a, 0x42, 0x10]);
    let found = capabilities(&mut driver);
    let (_, _, msix) = found[0];
    assert_eq!(msix[0], 0x11);
    assert_eq!(msix[2..4], [2, 0], "three vectors");
    assert_eq!(
        (u32_of(&msix[4..8]), u32_of(&msix[8..12])),
        (0x4000, 0x5000)
    );
    let virtio: Vec<_> = found[1..]
        .iter()
        .map(|(id, _, bytes)| {
            assert_eq!(*id, 0x09);
            let place = (u32_of(&bytes[8..12]), u32_of(&bytes[12..16]));
            (bytes[3], bytes[2], bytes[4], place)
        })
        .collect();
    let expected = [
        (1, 16, 0, (0x0000, 60)),
        (2, 20, 0, (0x3000, 8)),
        (3, 16, 0, (0x1000, 1)),
        (4, 16, 0, (0x2000, 0x1000)),
        (5, 20, 0, (0, 0)),
    ];
    assert_eq!(virtio, expected);
    assert_eq!(u32_of(&found[2].2[16..20]), 4, "notify_off_multiplier");
}

#[test]
fn device_configuration_describes_the_disk() {
    let mut driver = Driver::unready(info(), 1);
    let config: [u8; 60] = std::array::from_fn(|i| {
        let at = driver.bar + 0x2000 + i as u64;
        driver.mmio_read::<1>(at)[0]
    });
    assert_eq!(config[0..8], (0x10_0000u64 / 512).to_le_bytes());
    assert_eq!(config[8..12], (1u32 << 20).to_le_bytes(), "size_max");
    assert_eq!(config[12..16], 254u32.to_le_bytes(), "seg_max");
    assert_eq!(config[20..24], 512u32.to_le_bytes(), "blk_size");
    assert_eq!(config[24..32], [0, 0, 1, 0, 0, 0, 0, 0], "topology");
    assert_eq!(config[34..36], [1, 0], "num_queues");
    assert_eq!(
        config[44..48],
        128u32.to_le_bytes(),
        "discard_sector_alignment"
    );
    assert_eq!(config[56], 1, "write_zeroes_may_unmap");
}

#[test]
fn sectors_may_be_larger() {
    for (logical, physical, exponent, minimum) in [(4096, 4096, 0, 1), (512, 4096, 3, 8)] {
        let mut large = info();
        (large.block_size, large.physical_block_size) = (logical, physical);
        let mut driver = Driver::unready(large, 1);
        let config: [u8; 32] = std::array::from_fn(|i| {
            let at = driver.bar + 0x2000 + i as u64;
            driver.mmio_read::<1>(at)[0]
        });
        // The capacity still counts in 512 bytes.
        assert_eq!(config[0..8], (0x10_0000u64 / 512).to_le_bytes());
        assert_eq!(config[20..24], logical.to_le_bytes());
        assert_eq!(config[24..28], [exponent, 0, minimum, 0]);
    }
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut driver = Driver::unready(info(), 1);
    let offered = driver.offered();
    for accepted in [offered & !VERSION_1, offered | 1 << 63, offered | 1, 0] {
        driver.common_write(20, &[3]);
        driver.accept(accepted);
        driver.common_write(20, &[0xb]);
        assert_eq!(driver.status(), 3, "{accepted:#x}");
        driver.common_write(20, &[0xf]);
        assert_eq!(driver.status(), 3, "no DRIVER_OK without FEATURES_OK");
        driver.common_write(20, &[0]);
    }
    driver.common_write(0, &2u32.to_le_bytes());
    assert_eq!(driver.common_read(4), [0; 4], "no third feature word");
}

#[test]
fn settled_features_stay() {
    let mut driver = Driver::unready(info(), 1);
    driver.accept(VERSION_1);
    driver.common_write(20, &[0xb]);
    driver.accept(u64::MAX);
    driver.common_write(8, &1u32.to_le_bytes());
    assert_eq!(driver.common_read(12), 1u32.to_le_bytes());
}

#[test]
fn queue_registers_take_what_is_valid() {
    let mut driver = Driver::unready(info(), 1);
    assert_eq!(driver.common_read(24), SIZE.to_le_bytes());
    for bad in [0u16, 3, SIZE * 2, 0xffff] {
        driver.common_write(24, &bad.to_le_bytes());
        assert_eq!(driver.common_read(24), SIZE.to_le_bytes());
    }
    driver.common_write(24, &8u16.to_le_bytes());
    assert_eq!(driver.common_read(24), 8u16.to_le_bytes());
    driver.common_write(32, &0x1122_3344_5566_7788u64.to_le_bytes());
    driver.common_write(36, &0x99u32.to_le_bytes());
    assert_eq!(driver.common_read(32), 0x99_5566_7788u64.to_le_bytes());
    driver.common_write(22, &1u16.to_le_bytes());
    assert_eq!(driver.common_read(24), [0; 2], "there is no queue 1");
    driver.common_write(24, &8u16.to_le_bytes());
    driver.common_write(32, &[1; 8]);
    assert_eq!(driver.common_read(32), [0; 8]);
}

#[test]
fn unknown_vectors_read_back_as_none() {
    let mut driver = Driver::unready(info(), 1);
    for (offset, name) in [(16, "configuration"), (26, "queue")] {
        driver.common_write(offset, &1u16.to_le_bytes());
        assert_eq!(driver.common_read(offset), [1, 0], "{name}");
        driver.common_write(offset, &2u16.to_le_bytes());
        assert_eq!(driver.common_read(offset), [0xff, 0xff], "{name}");
    }
}

#[test]
fn doorbells_follow_the_bar() {
    let mut driver = Driver::unready(info(), 2);
    let at = |bar: u64| vec![bar + NOTIFY, bar + NOTIFY + 4];
    let old = driver.bar;
    assert_eq!(driver.host.doorbells(), at(old));
    driver.config_write(4, &[0, 0]);
    assert!(driver.host.doorbells().is_empty());
    driver.config_write(0x10, &0xd000_0000u32.to_le_bytes());
    driver.config_write(4, &[6, 0]);
    assert_eq!(driver.host.doorbells(), at(0xd000_0000));
    driver.config_write(0x14, &1u32.to_le_bytes());
    assert_eq!(driver.host.doorbells(), at(0x1_d000_0000));
    driver.config_write(0x14, &u32::MAX.to_le_bytes());
    driver.config_write(0x10, &u32::MAX.to_le_bytes());
    driver.root.lock().unwrap().reset();
    assert_eq!(driver.host.doorbells(), at(old));
}

#[test]
fn a_doorbell_write_on_the_bus_kicks_as_well() {
    let mut driver = Driver::new();
    driver.header(0, 0);
    driver.chain(
        0,
        &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)],
    );
    driver.offer(0);
    let function = driver.function.clone();
    function.lock().unwrap().write_bar(0, NOTIFY, &[0, 0]);
    function
        .lock()
        .unwrap()
        .write_bar(0, NOTIFY + 0xffc, &[0, 0]);
    driver.run();
    assert_eq!(driver.take_used(), [(0, 513)]);
}

#[test]
fn the_configuration_window_reaches_the_bar() {
    let mut driver = Driver::unready(info(), 1);
    let (_, window, _) = *capabilities(&mut driver).last().unwrap();
    let select = |driver: &mut Driver, bar: u8, offset: u32, len: u32| {
        driver.config_write(window + 4, &[bar]);
        driver.config_write(window + 8, &offset.to_le_bytes());
        driver.config_write(window + 12, &len.to_le_bytes());
    };
    select(&mut driver, 0, 20, 1);
    driver.config_write(window + 16, &[1, 0xaa, 0xaa, 0xaa]);
    assert_eq!(driver.status(), 1);
    assert_eq!(driver.config_read::<4>(window + 16)[0], 1);
    select(&mut driver, 0, 0x2000, 4);
    assert_eq!(driver.config_read(window + 16), 2048u32.to_le_bytes());
    for (bar, offset, len) in [(1, 0, 4), (0, 2, 4), (0, 0x8000, 4), (0, 0, 3), (0, 0, 0)] {
        select(&mut driver, bar, offset, len);
        assert_eq!(driver.config_read(window + 16), [0xff; 4]);
        driver.config_write(window + 16, &[0; 4]);
    }
    assert_eq!(driver.status(), 1);
}

#[test]
fn without_msix_the_pin_and_the_isr_register_serve() {
    let mut driver = Driver::unready(info(), 1);
    driver.start(ALL);
    let isr = driver.bar + 0x1000;
    driver.read_sectors(0, 512);
    assert!(driver.line.is_high());
    assert_eq!(driver.config_read::<1>(6)[0] & 8, 8, "interrupt status");
    assert_eq!(driver.mmio_read(isr), [1]);
    assert!(!driver.line.is_high());
    assert_eq!(driver.mmio_read(isr), [0]);

    driver.config_write(4, &0x0406u16.to_le_bytes());
    driver.put(AVAIL + 4 + 512, &1u16.to_le_bytes());
    driver.read_sectors(0, 512);
    assert!(!driver.line.is_high(), "INTx is disabled");
    driver.config_write(4, &0x0006u16.to_le_bytes());
    assert!(driver.line.is_high());
    driver.enable_msix();
    assert!(!driver.line.is_high(), "MSI-X takes over");
}

#[test]
fn a_masked_vector_is_sent_when_unmasked() {
    let mut driver = Driver::new();
    let control = driver.bar + MSIX + 12;
    driver.mmio_write(control, &1u32.to_le_bytes());
    driver.read_sectors(0, 512);
    assert_eq!(driver.host.vector(0).take_signals(), 0);
    assert_eq!(driver.bar_read(0x5000), [1]);
    driver.mmio_write(control, &0u32.to_le_bytes());
    assert_eq!(driver.host.vector(0).take_signals(), 1);
    assert_eq!(driver.bar_read(0x5000), [0]);
}

#[test]
fn a_resized_disk_is_announced() {
    let mut driver = Driver::new();
    let [before] = driver.common_read::<1>(21);
    driver.worker.borrow().resized();
    assert_eq!(driver.common_read(21), [before], "same size");
    driver.disk.info.borrow_mut().size = 1 << 30;
    driver.worker.borrow().resized();
    assert_eq!(driver.common_read(21), [before.wrapping_add(1)]);
    assert_eq!(driver.host.vector(1).take_signals(), 1);
    let capacity: [u8; 8] = driver.bar_read(0x2000);
    assert_eq!(u64::from_le_bytes(capacity), 1 << 21);
}

#[test]
fn nothing_is_fetched_while_bus_mastering_is_off() {
    let mut driver = Driver::new();
    driver.header(0, 0);
    driver.chain(
        0,
        &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)],
    );
    driver.offer(0);
    driver.config_write(4, &[2, 0]);
    driver.kick(0);
    assert_eq!(driver.take_used(), []);
    driver.config_write(4, &[6, 0]);
    driver.run();
    assert_eq!(driver.take_used(), [(0, 513)]);
}

#[test]
fn every_register_survives_every_access() {
    let mut driver = Driver::new();
    let function = driver.function.clone();
    let mut function = function.lock().unwrap();
    for value in [0xff, 0x00, 0x5a] {
        for len in [1, 2, 4, 8] {
            for offset in (0..0x8000 - 8).filter(|at| at % 0x1000 < 0x80 || at % 0x1000 > 0xfe0) {
                function.read_bar(0, offset, &mut [0xff; 8][..len]);
                function.write_bar(0, offset, &[value; 8][..len]);
            }
        }
        for offset in 0..256 {
            for len in [1, 2, 4].into_iter().filter(|len| offset % 4 + len <= 4) {
                function.read_config(offset, &mut [0xff; 4][..len]);
                function.write_config(offset, &[value; 4][..len]);
            }
        }
        function.reset();
    }
    drop(function);
    driver.run();
}
