//! CPUID: the processor v86 shows to its guests.
//!
//! Never report a feature the interpreter lacks: guests choose code paths by these bits.

use super::state::CpuState;

/// Leaf 1, EDX: FPU PSE TSC MSR PAE CX8 SEP PGE CMOV MMX FXSR SSE SSE2.
const FEATURES_EDX: u32 = 0x0780_A979;
/// Leaf 1, EDX: the machine has a local APIC.
const FEATURE_APIC: u32 = 1 << 9;
/// Leaf 1, ECX: SSE3 POPCNT RDRAND, running under a hypervisor.
const FEATURES_ECX: u32 = 0xC080_0001;
/// Leaf 1, EBX: CLFLUSH line of 64 bytes, one logical processor.
const BRAND_EBX: u32 = 0x0001_0800;
/// Family 6, model 7, stepping 3.
const SIGNATURE: u32 = 0x673;
/// Leaf 7, EBX: fast REP MOVSB/STOSB.
const FEATURE_ERMS: u32 = 1 << 9;

/// EAX, EBX, ECX, EDX for a leaf (EAX) and subleaf (ECX). Leaves that are not known read as zero,
/// whatever the reported maximum is.
pub fn cpuid(cpu: &CpuState, leaf: u32, subleaf: u32) -> [u32; 4] {
    match leaf {
        // "GenuineIntel" in EBX, EDX, ECX.
        0 => [cpu.cpuid_level, 0x756E_6547, 0x6C65_746E, 0x4965_6E69],
        1 => {
            let apic = if cpu.has_apic { FEATURE_APIC } else { 0 };
            [SIGNATURE, BRAND_EBX, FEATURES_ECX, FEATURES_EDX | apic]
        }
        2 => [0x665B_5001, 0, 0, 0x007A_7000],
        4 => match subleaf {
            0 => [0x0121, 0x01C0_003F, 0x3F, 1],
            1 => [0x0122, 0x01C0_003F, 0x3F, 1],
            2 => [0x0143, 0x05C0_003F, 0xFFF, 1],
            _ => [0; 4],
        },
        5 => [0x40, 0x40, 3, 0x0014_2120],
        7 if subleaf == 0 => [0, FEATURE_ERMS, 0, 0],
        // TSC at 1 GHz: ratio 1/1 of a crystal of 10^9 Hz.
        0x15 => [1, 1, 1_000_000_000, 0],
        0x16 => [1000, 1000, 10, 0],
        // The hypervisor's name, as v86 spells it; no further hypervisor leaf.
        0x4000_0000 => [0, 0x6177_4D56, 0x4D56_6572, 0x6572_6177],
        0x8000_0000 => [5, 0, 0, 0],
        _ => [0; 4],
    }
}
