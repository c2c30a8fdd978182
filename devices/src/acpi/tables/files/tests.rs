use std::collections::HashMap;

use super::*;

/// Where this firmware puts the tables.
const HIGH: u32 = 0x3ffe_0040;

/// Carries the script out as firmware does; the files as they lie in memory then.
fn carry_out(files: [(&'static str, Vec<u8>); 3]) -> HashMap<String, Vec<u8>> {
    let all: HashMap<_, _> = files.into_iter().collect();
    let mut loaded: HashMap<String, Vec<u8>> = HashMap::new();
    let mut addresses = HashMap::new();
    for command in all[SCRIPT].chunks(128) {
        let number = |at: usize| u32::from_le_bytes(command[at..at + 4].try_into().unwrap());
        let name = |at: usize| {
            let bytes: Vec<u8> = command[at..]
                .iter()
                .copied()
                .take_while(|&b| b != 0)
                .collect();
            String::from_utf8(bytes).unwrap()
        };
        let file = name(4);
        match number(0) {
            1 => {
                assert!(number(60).is_power_of_two());
                let address = if command[64] == 1 { HIGH } else { 0xf_5000 };
                assert_eq!(address % number(60), 0);
                addresses.insert(file.clone(), address);
                loaded.insert(file.clone(), all[file.as_str()].clone());
            }
            2 => {
                let address = addresses[&name(60)];
                let (at, len) = (number(116) as usize, usize::from(command[120]));
                let field = &mut loaded.get_mut(&file).unwrap()[at..at + len];
                let mut value = [0; 8];
                value[..len].copy_from_slice(field);
                let value = u64::from_le_bytes(value) + u64::from(address);
                field.copy_from_slice(&value.to_le_bytes()[..len]);
            }
            3 => {
                let [at, start, len] = [60, 64, 68].map(|at| number(at) as usize);
                let bytes = loaded.get_mut(&file).unwrap();
                assert_eq!(bytes[at], 0);
                let covered = bytes[start..start + len].iter();
                let sum = covered.fold(0u8, |sum, &byte| sum.wrapping_add(byte));
                bytes[at] = 0u8.wrapping_sub(sum);
            }
            other => panic!("command {other}"),
        }
    }
    loaded
}

#[test]
fn firmware_gets_the_tables_as_they_would_be_built_for_their_address() {
    for cpus in [1, 8, 254] {
        let loaded = carry_out(files(cpus));
        let (expected, roots) = Blob::build(cpus, HIGH);
        assert!(loaded[TABLES] == expected.bytes, "{cpus} CPUs");
        assert!(loaded[RSDP] == rsdp(roots), "{cpus} CPUs");
    }
}
