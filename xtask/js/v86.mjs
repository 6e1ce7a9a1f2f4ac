// Runs an env86 image in v86 under Node.
//
//   node v86.mjs --v86 DIR --image DIR [--bios FILE --vga-bios FILE] [--cold | --state FILE]
//                [--cdrom FILE] [--prompt TEXT] [--timeout SECONDS] [--save FILE] [--no-jit] [--times]
//                [--network URL [--nic ne2k|virtio]]
//                (--interactive | COMMAND...)
//
// Types each COMMAND when the prompt is there, and ends at the prompt after the last one (exit status 0).
// With --interactive, types what comes from standard input, and ends with it. What the guest prints on its
// first serial port goes to standard output. --save writes the state to FILE at the end; --times reports
// seconds and guest instructions at each prompt on standard error. --cdrom boots that and not the image's
// kernel, without the image's files. --network names a relay that its network card is connected to; Node needs a
// WebSocket for that.
//
// Works with all versions of npm's v86 from 0.4.0 on, which differ in names and in what returns a promise.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
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
    cdrom: { type: "string" },
    interactive: { type: "boolean", default: false },
    prompt: { type: "string", default: "# " },
    timeout: { type: "string", default: "300" },
    save: { type: "string" },
    "no-jit": { type: "boolean", default: false },
    times: { type: "boolean", default: false },
    network: { type: "string" },
    nic: { type: "string", default: "ne2k" },
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

const inPackage = name => path.resolve(options.v86, "build", name);
const wasm = readFileSync(inPackage("v86.wasm"));

const machine = {
  memory_size: 512 * 1024 * 1024,
  vga_memory_size: 8 * 1024 * 1024,
  ...image,
  wasm_fn: async imports => (await WebAssembly.instantiate(wasm, imports)).instance.exports,
  uart1: true,
  autostart: true,
  disable_keyboard: true,
  disable_mouse: true,
  disable_speaker: true,
  disable_jit: options["no-jit"],
  ...(options.network && { network_relay_url: options.network, net_device: { type: options.nic } }),
};
if (options.cdrom) {
  machine.cdrom = load(options.cdrom);
  machine.boot_order = 0x213; // CD-ROM first
  delete machine.bzimage_initrd_from_filesystem;
  delete machine.cmdline;
} else {
  machine.filesystem = { basefs: inImage("fs.json"), baseurl: inImage("fs/") };
}
if (snapshot) {
  machine.initial_state = load(snapshot);
} else {
  machine.bios = load(options.bios);
  machine.vga_bios = load(options["vga-bios"]);
}

// The release build of 0.4.0 uses names that only its debug build defines.
Object.assign(globalThis, { DEBUG: false, dbg_log() {}, dbg_assert() {}, dbg_trace() {} });
const library = existsSync(inPackage("libv86.mjs"))
  ? await import(inPackage("libv86.mjs"))
  : createRequire(import.meta.url)(inPackage("index.cjs"));
const V86 = library.V86Starter ?? library.V86 ?? library.default;
const started = performance.now();
const emulator = new V86(machine);

const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

// Old versions call back, new ones return a promise.
function saveState() {
  return new Promise((resolve, reject) => {
    const saved = emulator.save_state((error, state) => (error ? reject(error) : resolve(state)));
    saved?.then(resolve, reject);
  });
}

async function finish() {
  if (options.save) {
    // What the last command wrote is on its way through the 9p server; give it a moment of guest time.
    await pause(500);
    const stopped = emulator.stop();
    await (stopped?.then ? stopped : pause(300));
    writeFileSync(options.save, new Uint8Array(await saveState()));
  }
  process.exit(0);
}

let unseen = "";
function show(character) {
  process.stdout.write(Buffer.from(character, "latin1"));
  if (options.interactive) return;
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
}

emulator.add_listener("serial0-output-byte", byte => show(String.fromCharCode(byte)));
emulator.add_listener("serial0-output-char", show); // the old name

if (options.interactive) {
  process.stdin.on("data", bytes => emulator.serial0_send(bytes.toString("latin1")));
  process.stdin.on("end", finish);
}

// A restored shell printed its prompt before the snapshot was taken: ask for another one.
emulator.add_listener("emulator-ready", () => {
  if (snapshot) setTimeout(() => emulator.serial0_send("\n"), 20);
});

setTimeout(() => fail(`no prompt ${JSON.stringify(options.prompt)} within ${options.timeout} s`), options.timeout * 1000);
