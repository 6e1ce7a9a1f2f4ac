// Runs one kernel of the benchmark image in v86 under Node.
//
//   node kernels.mjs --v86 DIR --bios FILE --vga-bios FILE --image FILE --kernel NUMBER --ram BYTES [--no-jit]
//
// Prints {"seconds", "instructions", "checksum"}: host time and guest instructions from the last byte of the
// START line to the next byte that the guest writes to its first serial port, and what the kernel returned.
import { readFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    v86: { type: "string" },
    bios: { type: "string" },
    "vga-bios": { type: "string" },
    image: { type: "string" },
    kernel: { type: "string" },
    ram: { type: "string" },
    "no-jit": { type: "boolean", default: false },
    timeout: { type: "string", default: "300" },
  },
});

function fail(message) {
  console.error(`v86: ${message}`);
  process.exit(1);
}

for (const name of ["v86", "bios", "vga-bios", "image", "kernel", "ram"]) {
  if (options[name] === undefined) fail(`--${name} is needed`);
}

const load = file => ({ buffer: new Uint8Array(readFileSync(file)).buffer });

const { V86 } = await import(path.resolve(options.v86, "build/libv86.mjs"));
const emulator = new V86({
  wasm_path: path.resolve(options.v86, "build/v86.wasm"),
  bios: load(options.bios),
  vga_bios: load(options["vga-bios"]),
  multiboot: load(options.image),
  cmdline: options.kernel,
  memory_size: Number(options.ram),
  vga_memory_size: 8 * 1024 * 1024,
  autostart: true,
  disable_keyboard: true,
  disable_mouse: true,
  disable_speaker: true,
  disable_jit: options["no-jit"],
});

const stamp = () => ({ time: performance.now(), instructions: emulator.get_instruction_counter() });
let line = "";
let started;
let result;

emulator.add_listener("serial0-output-byte", byte => {
  if (started) {
    const ended = stamp();
    result = {
      seconds: (ended.time - started.time) / 1000,
      // The counter has 32 bits.
      instructions: (ended.instructions - started.instructions) >>> 0,
    };
    started = undefined;
  }
  if (byte !== 10) {
    line += String.fromCharCode(byte);
    return;
  }
  const words = line.split(" ");
  line = "";
  if (words[0] === "END" && result) {
    result.checksum = parseInt(words[2], 16);
    console.log(JSON.stringify(result));
    process.exit(0);
  }
  if (words[0] === "START") started = stamp();
});

setTimeout(() => fail(`no END within ${options.timeout} s`), options.timeout * 1000);
