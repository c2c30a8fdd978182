use virtio_bindings::{virtio_blk::*, virtio_ring::VIRTIO_RING_F_EVENT_IDX};

use super::driver::*;

fn prepare_write(driver: &mut Driver) {
    driver.header(VIRTIO_BLK_T_OUT, 0);
    driver.chain(0, &[(HEADER, 16, 0), (DATA, 512, 0), (STATUS, 1, WRITE)]);
}

#[test]
fn status_reads_zero_only_after_the_last_request() {
    let mut driver = Driver::new();
    driver.disk.hold.set(true);
    prepare_write(&mut driver);
    driver.offer(0);
    driver.offer(0);
    driver.kick(0);
    driver.common_write(20, &[0]);
    driver.run();
    assert_ne!(driver.status(), 0);
    assert!(!driver.worker.borrow().is_idle());
    driver.disk.release(1);
    driver.run();
    assert_ne!(driver.status(), 0);
    // The request of a driver that does not wait is not noticed.
    driver.common_write(20, &[1]);
    driver.common_write(20, &[0]);
    assert_ne!(driver.status(), 0);
    driver.disk.release(1);
    driver.run();
    assert_eq!(driver.status(), 0);
    assert!(driver.worker.borrow().is_idle());
    assert_eq!(
        driver.host.vector(0).take_signals(),
        0,
        "nobody is notified"
    );
}

#[test]
fn a_drained_device_starts_again() {
    let mut driver = Driver::new();
    for _ in 0..3 {
        driver.disk.hold.set(true);
        prepare_write(&mut driver);
        driver.offer(0);
        driver.kick(0);
        driver.common_write(20, &[0]);
        driver.run();
        driver.disk.release(1);
        driver.run();
        assert_eq!(driver.status(), 0);
        driver.disk.hold.set(false);
        driver.start(ALL);
        assert_eq!(driver.write_sectors(3, 512), (0, 1));
    }
}

#[test]
fn nothing_is_fetched_after_a_reset() {
    let mut driver = Driver::new();
    prepare_write(&mut driver);
    driver.offer(0);
    driver.common_write(20, &[0]);
    driver.kick(0);
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.disk.take_log(), []);
    assert_eq!(driver.get::<1>(STATUS), [UNTOUCHED]);
}

#[test]
fn reset_forgets_what_the_driver_set_up() {
    let mut driver = Driver::new();
    driver.common_write(20, &[0]);
    driver.run();
    assert_eq!(driver.common_read(16), [0xff, 0xff], "config_msix_vector");
    assert_eq!(driver.common_read(26), [0xff, 0xff], "queue_msix_vector");
    assert_eq!(driver.common_read(28), [0, 0], "queue_enable");
    assert_eq!(driver.common_read(32), [0; 8], "queue_desc");
    assert_eq!(driver.common_read(12), [0; 4], "driver_feature");
}

#[test]
fn a_reset_that_meets_an_idle_or_fresh_device_is_done_at_once() {
    let mut driver = Driver::unready(super::bench::info(), 1);
    driver.common_write(20, &[3]);
    driver.common_write(20, &[0]);
    assert_eq!(driver.status(), 0, "no worker was involved");
    driver.start(ALL);
    driver.common_write(20, &[0]);
    driver.run();
    assert_eq!(driver.status(), 0);
}

#[test]
fn the_pin_is_low_after_a_reset() {
    let mut driver = Driver::unready(super::bench::info(), 1);
    driver.start(!(1 << VIRTIO_RING_F_EVENT_IDX));
    driver.disk.hold.set(true);
    prepare_write(&mut driver);
    driver.offer(0);
    driver.offer(0);
    driver.kick(0);
    driver.disk.release(1);
    assert!(driver.line.is_high());
    driver.common_write(20, &[0]);
    assert!(!driver.line.is_high());
    driver.disk.release(1);
    driver.run();
    assert_eq!(driver.status(), 0);
    assert!(!driver.line.is_high());
}

#[test]
fn a_machine_reset_drains_and_masks_everything() {
    let mut driver = Driver::new();
    driver.disk.hold.set(true);
    prepare_write(&mut driver);
    driver.offer(0);
    driver.kick(0);
    driver.worker.borrow_mut().stop();
    driver.root.lock().unwrap().reset();
    driver.run();
    assert!(!driver.worker.borrow().is_idle());
    driver.disk.release(1);
    driver.run();
    assert!(driver.worker.borrow().is_idle());
    assert_eq!(driver.host.vector(0).route(), None);
    assert_eq!(driver.config_read::<2>(0x42), [1, 0], "MSI-X is off");
    driver.worker.borrow_mut().cont();
    driver.disk.hold.set(false);
    driver.config_write(4, &[6, 0]);
    driver.enable_msix();
    driver.start(ALL);
    assert_eq!(driver.write_sectors(0, 512), (0, 1));
    assert_eq!(driver.host.vector(0).take_signals(), 1);
}
