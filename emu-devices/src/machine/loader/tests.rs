use super::*;

fn bzimage() -> Vec<u8> {
    let mut k = vec![0u8; 0x800];
    k[0x1F1] = 1;
    k[0x1F4..0x1F8].copy_from_slice(&((0x800u32 - 0x400) / 16).to_le_bytes());
    k[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    k[0x200..0x202].copy_from_slice(&[0xEB, 0x66]);
    k[0x202..0x206].copy_from_slice(b"HdrS");
    k[0x206..0x208].copy_from_slice(&0x020Fu16.to_le_bytes());
    k[0x211] = 1;
    k[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    k[0x22C..0x230].copy_from_slice(&0x7FFF_FFFFu32.to_le_bytes());
    k[0x238..0x23C].copy_from_slice(&2047u32.to_le_bytes());
    k[0x260..0x264].copy_from_slice(&0x1000u32.to_le_bytes());
    k[0x400] = 0xF4;
    k
}

fn boot(kernel: Vec<u8>) -> (Result<(), LoadError>, Memory, CpuState) {
    let mut mem = Memory::new(32 << 20).unwrap();
    let mut cpu = CpuState::new();
    let boot = LinuxBoot { kernel, initrd: Some(vec![7; 5000]), cmdline: "console=ttyS0".into() };
    let r = load(&boot, &mut mem, &mut cpu);
    (r, mem, cpu)
}

#[test]
fn bzimage_is_placed_with_parameters_initrd_and_flat_segments() {
    let (r, mem, cpu) = boot(bzimage());
    assert_eq!(r, Ok(()));
    assert_eq!(cpu.eip, 0x10_0000);
    assert!(cpu.protected() && cpu.mode.code32() && cpu.mode.stack32());
    assert_eq!(mem.dma_slice(0x10_0000, 1), Some(&[0xF4][..]));
    let params = u64::from(cpu.gpr[gpr::ESI]);
    assert_eq!(mem.dma_read_u32(params + 0x202), Some(u32::from_le_bytes(*b"HdrS")));
    let initrd = u64::from(mem.dma_read_u32(params + 0x218).unwrap());
    assert_eq!(mem.dma_read_u32(params + 0x21C), Some(5000));
    assert_eq!(mem.dma_slice(initrd, 5000), Some(&[7u8; 5000][..]));
    let cmdline = u64::from(mem.dma_read_u32(params + 0x228).unwrap());
    assert_eq!(mem.dma_slice(cmdline, 14), Some(&b"console=ttyS0\0"[..]));
    assert_eq!(mem.dma_slice(params + 0x1E8, 1), Some(&[4][..]));
}

#[test]
fn bzimage_for_64_bit_is_refused_by_name() {
    let mut k = bzimage();
    k[0x236] = 1;
    assert_eq!(boot(k).0, Err(LoadError::Needs64Bit));
}

#[test]
fn bzimage_truncated_anywhere_is_an_error_never_a_panic() {
    let k = bzimage();
    for len in 0..k.len() - 15 {
        let r = boot(k[..len].to_vec()).0;
        assert!(
            matches!(r, Err(LoadError::Truncated { .. } | LoadError::UnknownFormat | LoadError::LoadsLow)),
            "{len}: {r:?}"
        );
        if len >= 0x270 {
            assert!(matches!(r, Err(LoadError::Truncated { .. })), "{len}: {r:?}");
        }
    }
}

#[test]
fn bzimage_of_an_old_protocol_or_with_a_long_command_line_is_refused() {
    let mut k = bzimage();
    k[0x206..0x208].copy_from_slice(&0x0200u16.to_le_bytes());
    assert_eq!(boot(k).0, Err(LoadError::ProtocolTooOld(0x200)));
    let mut mem = Memory::new(32 << 20).unwrap();
    let long = LinuxBoot { kernel: bzimage(), initrd: None, cmdline: "x".repeat(3000) };
    let r = load(&long, &mut mem, &mut CpuState::new());
    assert_eq!(r, Err(LoadError::CommandLineTooLong(3000, 2047)));
}

#[test]
fn bzimage_that_does_not_fit_says_how_much_it_needs() {
    let mut k = bzimage();
    k[0x260..0x264].copy_from_slice(&0x7000_0000u32.to_le_bytes());
    assert!(matches!(boot(k).0, Err(LoadError::NoRoom { what: "kernel", needed: 0x7000_0000, .. })));
}

fn elf(class: u8, machine: u16) -> Vec<u8> {
    let mut k = vec![0u8; 0x100];
    k[..4].copy_from_slice(b"\x7FELF");
    k[4] = class;
    k[18..20].copy_from_slice(&machine.to_le_bytes());
    k[24..28].copy_from_slice(&0xC010_0004u32.to_le_bytes());
    k[28..32].copy_from_slice(&52u32.to_le_bytes());
    k[42..44].copy_from_slice(&32u16.to_le_bytes());
    k[44..46].copy_from_slice(&1u16.to_le_bytes());
    for (n, v) in [1u32, 0x80, 0xC010_0000, 0x10_0000, 0x80, 0x200].into_iter().enumerate() {
        k[52 + n * 4..56 + n * 4].copy_from_slice(&v.to_le_bytes());
    }
    k[0x84] = 0x90;
    k
}

#[test]
fn elf_kernel_is_loaded_by_physical_address_with_cleared_bss() {
    let (r, mem, cpu) = boot(elf(1, 3));
    assert_eq!(r, Ok(()));
    assert_eq!(cpu.eip, 0x10_0004);
    assert_eq!(mem.dma_slice(0x10_0004, 1), Some(&[0x90][..]));
}

#[test]
fn elf_kernel_for_other_machines_is_refused_by_name() {
    assert_eq!(boot(elf(2, 62)).0, Err(LoadError::Needs64Bit));
    assert_eq!(boot(elf(1, 40)).0, Err(LoadError::WrongMachine(40)));
    assert_eq!(boot(b"GIF89a".to_vec()).0, Err(LoadError::UnknownFormat));
}

#[test]
fn elf_kernel_truncated_anywhere_is_an_error_never_a_panic() {
    let k = elf(1, 3);
    for len in 0..k.len() {
        assert!(boot(k[..len].to_vec()).0.is_err(), "{len}");
    }
}

#[test]
fn multiboot_kernel_gets_magic_and_information() {
    let mut k = vec![0u8; 0x1000];
    let flags = 0x0001_0002u32;
    for (n, v) in [
        MAGIC,
        flags,
        0u32.wrapping_sub(MAGIC).wrapping_sub(flags),
        0x10_0010,
        0x10_0000,
        0,
        0x10_4000,
        0x10_0020,
    ]
    .into_iter()
    .enumerate()
    {
        k[0x10 + n * 4..0x14 + n * 4].copy_from_slice(&v.to_le_bytes());
    }
    let (r, mem, cpu) = boot(k);
    assert_eq!(r, Ok(()));
    assert_eq!((cpu.eip, cpu.gpr[gpr::EAX], cpu.gpr[gpr::EBX]), (0x10_0020, 0x2BAD_B002, 0x7C00));
    let flags = mem.dma_read_u32(0x7C00).unwrap();
    assert_eq!(flags & 0b100_1101, 0b100_1101);
    let module = u64::from(mem.dma_read_u32(0x7C00 + 24).unwrap());
    assert_eq!(mem.dma_read_u32(module), Some(0x10_4000));
}

const MAGIC: u32 = 0x1BAD_B002;
