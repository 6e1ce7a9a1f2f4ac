//! Constants to 128 bits for the transcendental functions, rounded to nearest.

/// pi / 4 with 128 fraction bits.
pub(super) const PI_OVER_4: u128 = 0xc90fdaa2_2168c234_c4c6628b_80dc1cd1;
/// ln 2 with 128 fraction bits.
pub(super) const LN_2: u128 = 0xb17217f7_d1cf79ab_c9e3b398_03f2f6af;
/// log2 e with 127 fraction bits.
pub(super) const LOG2_E: u128 = 0xb8aa3b29_5c17f0bb_be87fed0_691d3e89;

/// atan(i / 32) with 128 fraction bits.
pub(super) const ATAN: [u128; 33] = [
    0x00000000_00000000_00000000_00000000,
    0x07ff556e_ea5d892a_13bcebbb_6ed46311,
    0x0ffaaddb_967ef4e3_6cb2792d_c0e2e0d5,
    0x17ee1826_02f10e8c_126acfcf_099f06cf,
    0x1fd5ba9a_ac2f6dc6_5912f313_e7d111df,
    0x27adddd1_8cc4d8b0_d1d86749_40d83fa1,
    0x2f72f697_9cb6044d_1ec2d3e2_07271d22,
    0x3721aea5_24c14408_bd886970_72d54bc1,
    0x3eb6ebf2_5901bac5_5b71e7bd_7de885f9,
    0x462fd68c_2fc5e098_6523a458_dfc414c7,
    0x4d89dcdc_1faf2f34_e2d5da4c_693d7994,
    0x54c2b665_4735276d_4cdbfbbd_fbecf461,
    0x5bd86507_937bc239_c5519091_6e7f2242,
    0x62c934e5_286c95b6_d0ba3748_fa85146f,
    0x6993bb0f_308ff2db_213e4af4_800f389b,
    0x7036d325_3b27be33_e318f6cb_3cc65c02,
    0x76b19c15_86ed3da2_b7f222f6_5e1d4682,
    0x7d03742d_50505f2e_33691e3e_aee47661,
    0x832bf4a6_d9867e2a_4b6a09cb_61a515c1,
    0x892aecdf_de9547b5_094478fc_472b4afc,
    0x8f005d5e_f7f59f9b_5c835e16_65c43748,
    0x94ac72c9_847186f6_18c4f393_f78a32f9,
    0x9a2f80e6_71bdda20_4226f8e2_204ff3bd,
    0x9f89fdc4_f4b7a1ec_f8b49264_4f0701e0,
    0xa4bc7d19_34f70924_19a87f2a_457dac9f,
    0xa9c7abdc_4830f5c8_916a84b5_be7933f6,
    0xaeac4c38_b4d8c080_14725e2f_3e52070a,
    0xb36b31c9_1f043691_59014174_4462f93a,
    0xb8053e2b_c2319e73_cb2da552_10a4443d,
    0xbc7b5dea_e98af280_d4113006_e80fb290,
    0xc0ce85b8_ac526640_89dd62c4_6e92fa25,
    0xc4ffaffa_bf8fbd54_8cb43d10_bc9e0221,
    0xc90fdaa2_2168c234_c4c6628b_80dc1cd1,
];

/// 2^(i / 32) - 1 with 128 fraction bits.
pub(super) const EXP2_MINUS_1: [u128; 32] = [
    0x00000000_00000000_00000000_00000000,
    0x059b0d31_585743ae_7c548eb6_8ca417fe,
    0x0b5586cf_9890f629_8b92b718_42a98364,
    0x11301d01_25b50a4e_bbf1aed9_318ceac6,
    0x172b83c7_d517adcd_f7c8c50e_b14a7920,
    0x1d487316_8b9aa780_5b802899_0f07a98b,
    0x2387a6e7_5623866c_1fadb1c1_5cb593b0,
    0x29e9df51_fdee12c2_5d15f5a2_4aa3bca9,
    0x306fe0a3_1b7152de_8d5a4630_5c85eded,
    0x371a7373_aa9caa71_45502f45_47987e3e,
    0x3dea64c1_2342235b_41223e13_d773fba3,
    0x44e08606_1892d031_36f409df_019fbd4f,
    0x4bfdad53_62a271d4_397afec4_2e20e036,
    0x5342b569_d4f81df0_a83c49d8_6a63f4e6,
    0x5ab07dd4_8542958c_93015191_eb345d89,
    0x6247eb03_a5584b1f_0fa06fd2_da42bb1d,
    0x6a09e667_f3bcc908_b2fb1366_ea957d3e,
    0x71f75e8e_c5f73dd2_370f2ef0_acd6cb43,
    0x7a11473e_b0186d7d_51023f6c_da1f5ef4,
    0x82589994_cce128ac_f88afab3_4a010f6b,
    0x8ace5422_aa0db5ba_7c55a192_c9bb3e6f,
    0x93737b0c_dc5e4f45_01c3f254_0a22d2fc,
    0x9c49182a_3f0901c7_c46b071f_2be58ddb,
    0xa5503b23_e255c8b4_24491caf_87bc8051,
    0xae89f995_ad3ad5e8_734d1773_205a7fbc,
    0xb7f76f2f_b5e46eaa_7b081ab5_3c5354c9,
    0xc199bdd8_5529c222_0cb12a09_1ba66794,
    0xcb720dce_f9069150_3cbd1e94_9db761d9,
    0xd5818dcf_ba48725d_a05aeb66_e0dca9f6,
    0xdfc97337_b9b5eb96_8cac39ed_291b7226,
    0xea4afa2a_490d9858_f73a18f5_db301f87,
    0xf50765b6_e4540674_f84b7628_62baff99,
];

/// Index of the first entry of [`LOG2`].
pub(super) const LOG2_FIRST: usize = 45;

/// Number of 256ths by which a number around `i / 64` is multiplied to come close to 1.
pub(super) const fn near_reciprocal(i: usize) -> u64 {
    ((256 * 64 + i / 2) / i) as u64
}

/// `|log2(near_reciprocal(i) / 256)|` with 128 fraction bits, from `i = 45`; the logarithm is positive
/// below `i = 64` and negative above.
pub(super) const LOG2: [u128; 47] = [
    0x81fed45c_bccbf99c_a1a3202b_3d68f965,
    0x79c9aa87_9d534831_46784bd1_c44ccd5f,
    0x72740bdb_291ecf4d_ff1e8ea1_f08458f9,
    0x69e3851b_defbd14a_0816a5c2_511beb13,
    0x623a71cb_82c89692_d9929323_6a6eac44,
    0x5b888736_7433795e_35482d13_dc0f110d,
    0x5390e203_a3eda7ee_f5c70b16_ea822f2d,
    0x4c98e58d_aca0d66b_8f8f03b5_57bc711d,
    0x457e99da_ec23fd65_f8e114f0_71908187,
    0x3e40a672_411e4e8e_ea54ce63_19d49f16,
    0x381b6d9b_b29bdc81_c4db3133_9fde86be,
    0x31db95d0_6a56d76b_9a843329_3369bd5c,
    0x2a375720_f4b91491_601130b7_eff4b954,
    0x23b9a32e_aa56f6bd_48a860f0_72c2aeb5,
    0x1e72ec11_7fa5b21c_bdb5d9dc_29f204ea,
    0x17beee96_b8a2813c_41ae3235_43f4a736,
    0x124b5b7e_135a3c89_a2cf3515_f65a0b6e,
    0x0b5d69ba_c77ec398_9b03784b_5be08490,
    0x05b9e5a1_70b48a62_9b89f884_6042be52,
    0x00000000_00000000_00000000_00000000,
    0x05d0fba1_87cd558d_9520d847_df02fc16,
    0x0bb9ca64_ecac6aae_f2e1c07f_0438ebac,
    0x10387efb_ca869da0_85be1cba_a175423e,
    0x164ce26c_067156b4_3e42925a_938daa2d,
    0x1c7b528b_70f1c4fa_1b273b9d_d9bb39c1,
    0x212fc719_cc0c9257_490fbf64_c9655340,
    0x25f3c65a_b7fba134_3a338410_9039d328,
    0x2ac7b853_ff596419_0e41bca6_ef95e64a,
    0x31513015_7f7a64cc_d536fc5b_ec1a57b9,
    0x364c0492_faa68b19_bcd26117_9225541e,
    0x3b5845a7_c883a5fc_8ae9c137_2a9dbd07,
    0x3ebfb152_0c7c6921_1fdec9e1_ec5cf68d,
    0x43ea1201_12cd4421_bc0f6d0a_aadd0594,
    0x492734ac_4f35b134_107c0e54_aecf3cb4,
    0x4e77a385_567dbdfc_ad2f4710_dff999b5,
    0x520d979a_575e5aa8_a607f6ee_ed3181c0,
    0x577f73c7_bab83910_b5b643a6_ecb70ebb,
    0x5b2c3da1_9723a80d_b6a04805_92812599,
    0x60c13643_047f4ca8_eac292d5_69c96528,
    0x64860024_9374edfd_c46af571_993193dd,
    0x6854bc50_a606cf5e_c39974b3_6773a2ce,
    0x6c2d9fd3_d1a03fd4_3d88f8e2_8b0628ae,
    0x7206770b_517f90e2_5762b119_93c8ff1c,
    0x75f9b02a_f0d5e30f_52d6ae74_fdad3ddb,
    0x79f7d7f9_4e2acd3b_ed456b24_ed10f558,
    0x7e012ba3_43340663_5e5cdfd4_c297069b,
    0x8215ea5c_d3e4c4c7_9b39ffee_bc29372a,
];
