// Runs an env86 image in v86 under Node.
//
//   node v86.mjs --v86 DIR --image DIR [--bios FILE --vga-bios FILE] [--cold | --state FILE]
//                [--prompt TEXT] [--timeout SECONDS] [--save FILE] [--no-jit] [--times] COMMAND...
//
// Types each COMMAND when the prompt is there, and ends at the prompt after the last one (exit status 0).
// What the guest prints on its first serial port goes to standard output. --save writes the state to FILE;
// --times reports seconds and guest instructions at each prompt on standard error.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";

const { values: options, positionals: commands } = parseArgs({
  allowPositionals: true,
  options: {
    v86: { type: "string" },
    image: { type: "string" },
    bios: { type: "string", default: "/usr/share/seabios/bios-256k.bin" },
    "vga-bios": { type: "string", default: "/usr/share/seabios/vgabios-stdvga.bin" },
    cold: { type: "boolean", default: false },
    state: { type: "string" },
    prompt: { type: "string", default: "# " },
    timeout: { type: "string", default: "300" },
    save: { type: "string" },
    "no-jit": { type: "boolean", default: false },
    times: { type: "boolean", default: false },
  },
});

function fail(message) {
  console.error(`v86: ${message}`);
  process.exit(1);
}

if (!options.v86 || !options.image) fail("--v86 and --image are needed");

const inImage = name => path.join(options.image, name);
const load = file => ({ buffer: new Uint8Array(readFileSync(file)).buffer });

const image = JSON.parse(readFileSync(inImage("image.json"), "utf8"));
const snapshot = options.cold
  ? undefined
  : options.state ?? [inImage("initial.state.zst"), inImage("initial.state")].find(existsSync);

const machine = {
  memory_size: 512 * 1024 * 1024,
  vga_memory_size: 8 * 1024 * 1024,
  ...image,
  wasm_path: path.resolve(options.v86, "build/v86.wasm"),
  filesystem: { basefs: inImage("fs.json"), baseurl: inImage("fs/") },
  uart1: true,
  autostart: true,
  disable_keyboard: true,
  disable_mouse: true,
  disable_speaker: true,
  disable_jit: options["no-jit"],
};
if (snapshot) {
  machine.initial_state = load(snapshot);
} else {
  machine.bios = load(options.bios);
  machine.vga_bios = load(options["vga-bios"]);
}

const { V86 } = await import(path.resolve(options.v86, "build/libv86.mjs"));
const started = performance.now();
const emulator = new V86(machine);

async function finish() {
  if (options.save) {
    // What the last command wrote is on its way through the 9p server; give it a moment of guest time.
    await new Promise(resolve => setTimeout(resolve, 500));
    await emulator.stop();
    writeFileSync(options.save, new Uint8Array(await emulator.save_state()));
  }
  process.exit(0);
}

let unseen = "";
emulator.add_listener("serial0-output-byte", byte => {
  const character = String.fromCharCode(byte);
  process.stdout.write(character);
  unseen = (unseen + character).slice(-options.prompt.length);
  if (unseen !== options.prompt) return;
  unseen = "";
  if (options.times) {
    const seconds = (performance.now() - started) / 1000;
    console.error(`prompt ${seconds.toFixed(3)} s ${emulator.get_instruction_counter()} instructions`);
  }
  const command = commands.shift();
  // Not from within the emulator's own event.
  setTimeout(() => (command === undefined ? finish() : emulator.serial0_send(command + "\n")), 0);
});

// A restored shell printed its prompt before the snapshot was taken: ask for another one.
emulator.add_listener("emulator-ready", () => {
  if (snapshot) setTimeout(() => emulator.serial0_send("\n"), 20);
});

setTimeout(() => fail(`no prompt ${JSON.stringify(options.prompt)} within ${options.timeout} s`), options.timeout * 1000);
