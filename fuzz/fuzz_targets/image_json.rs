//! `image.json`: any bytes give a configuration or a reason, and resolve to a machine or a reason.

#![no_main]

use host::image::clean_name;
use host::image::image_json::ImageJson;
use host::image::kernel_source::name_in_image;

fn seeds() -> Vec<Vec<u8>> {
    let texts: [&str; 7] = [
        r#"{"memory_size":268435456,"vga_memory_size":8388608,"cmdline":"rw root=host9p"}"#,
        r#"{"bzimage":{"url":"./bzimage.bin","size":5},"initrd":{"url":"/image/initrd","async":true}}"#,
        r#"{"filesystem":{"baseurl":"/image/fs/","basefs":"./fs.json"},"bzimage_initrd_from_filesystem":true}"#,
        r#"{"initial_state":{"url":"state.bin.zst"},"initial_state_parts":3,"acpi":true,"uart1":true,"uart2":1}"#,
        r#"{"multiboot":{"url":"k"},"bios":{"url":"b"},"vga_bios":{"url":"v"},"hda":{"url":"d","size":512}}"#,
        r#"{"network_relay_url":"wss://x","net_device":{"type":"virtio"},"cpuid_level":22,"disable_jit":0}"#,
        r#"{"virtio_console":true,"virtio_balloon":true,"preserve_mac_from_state_image":true,"x":[1,{"y":null}]}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

env86_fuzz::target!(seeds, |data: &[u8]| {
    match ImageJson::parse(data) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(json) => {
            let files = [&json.initial_state, &json.bios, &json.bzimage, &json.initrd, &json.multiboot];
            for file in files.into_iter().flatten() {
                if let Ok(name) = name_in_image(&file.url) {
                    let clean = clean_name(&name).expect("a name in the image stays in it");
                    assert_eq!(clean_name(&clean).as_deref(), Ok(&*clean), "cleaning twice");
                }
            }
        }
    }
});
