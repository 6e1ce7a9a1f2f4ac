//! The part of a program that is not a case: start, reset of the machine between cases, the recorder behind
//! the IDT, and what prints to COM1.

use iced_x86::code_asm::*;

use super::builder::{Asm, Builder, Mark};
use super::layout::*;
use crate::asm;

/// Routines of the runtime.
#[derive(Clone, Copy)]
pub(super) struct Runtime {
    /// Puts tables, control registers and segments back; general registers become 0, the stack is empty.
    pub(super) reset: Mark,
    /// Prints a case's line: ESI is its table, EBP the EIP that distances are printed from.
    pub(super) report: Mark,
    /// Target of gates: what lies on the stack goes to EAX EBX ECX EDX ESI EBP EDI, then INT 41h.
    pub(super) hit: Mark,
    handlers: Mark,
    with_error: Mark,
    without_error: Mark,
    put: Mark,
    hex: Mark,
    send: Mark,
    /// End of the runtime.
    first_case: Mark,
}

/// Where the IDT is made once.
const IDT_TEMPLATE: u32 = 0x20_1800;
/// Bytes per entry of the handlers' table: a call and padding.
const HANDLER: u32 = 8;
const VECTORS: u32 = (IDT_LIMIT as u32 + 1) / 8;
/// Vectors below this have no rights for INT in outer rings, apart from #BP and #OF.
const FIRST_USER_VECTOR: u32 = 0x40;
const COM1: u32 = 0x3F8;
/// Names of the vectors below 20h.
const NAMES: [&str; 32] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#09", "#TS", "#NP", "#SS", "#GP", "#PF",
    "#0f", "#MF", "#AC", "#MC", "#XM", "#14", "#15", "#16", "#17", "#18", "#19", "#1a", "#1b", "#1c", "#1d",
    "#1e", "#1f",
];
/// CR0 with protection alone.
const CR0: u32 = 0x11;

impl Runtime {
    pub(super) fn new(mut mark: impl FnMut() -> Mark) -> Self {
        let [reset, report, hit, handlers, with_error] = std::array::from_fn(|_| mark());
        let [without_error, put, hex, send, first_case] = std::array::from_fn(|_| mark());
        Self { reset, report, hit, handlers, with_error, without_error, put, hex, send, first_case }
    }
}

/// The GDT when a case begins.
fn gdt() -> Vec<u32> {
    let mut entries = vec![0u64; 64];
    let mut set = |selector: u16, descriptor| entries[usize::from(selector / 8)] = descriptor;
    for ring in 0..4 {
        set(sel::code(ring), desc::flat(desc::CODE | desc::dpl(ring as u8)));
        set(sel::data(ring), desc::flat(desc::DATA | desc::dpl(ring as u8)));
    }
    set(sel::TSS, desc::segment(TSS, TSS_LIMIT, 0x89, 0));
    set(sel::LDT, desc::segment(LDT, LDT_LIMIT, 0x82, 0));
    set(sel::CODE16, desc::segment(0, 0xFFFF, desc::CODE, 0));
    set(sel::DATA16, desc::segment(0, 0xFFFF, desc::DATA, 0));
    set(sel::TSS2, desc::segment(TSS2, 0x67, 0x89, 0));
    set(sel::TSS3, desc::segment(TSS3, 0x67, 0x89, 0));
    entries.iter().flat_map(|&entry| [entry as u32, (entry >> 32) as u32]).collect()
}

/// The TSS when a case begins.
fn tss() -> Vec<u32> {
    let mut words = vec![0; 26];
    for (ring, top) in [INNER0, INNER1, INNER2].into_iter().enumerate() {
        words[1 + ring * 2] = top;
        words[2 + ring * 2] = u32::from(sel::data(ring as u16));
    }
    // I/O map behind the limit
    words[25] = 0x68 << 16;
    words
}

pub(super) fn emit(b: &mut Builder) -> Asm {
    start(b)?;
    let first_case = b.at(b.rt.first_case);
    b.a.jmp(first_case)?;
    reset(b)?;
    handlers(b)?;
    recorder(b)?;
    hit(b)?;
    report(b)?;
    output(b)?;
    b.place(b.rt.first_case)
}

/// Interrupts masked, IDT template made.
fn start(b: &mut Builder) -> Asm {
    let mut next = b.a.create_label();
    let handlers = b.addr(b.rt.handlers);
    asm!(b;
        cli();
        cld();
        mov(esp, STACK0);
        mov(eax, 0xFF);
        out(0x21, al);
        out(0xA1, al);
        mov(eax, handlers);
        mov(edi, IDT_TEMPLATE);
        xor(ecx, ecx);
        set_label(&mut next);
        mov(word_ptr(edi), ax);
        mov(word_ptr(edi + 2), u32::from(sel::CODE0));
        mov(ebx, eax);
        and(ebx, 0xFFFF_0000u32 as i32);
        or(ebx, 0x8E00);
    );
    let [mut inner, mut user] = std::array::from_fn(|_| b.a.create_label());
    asm!(b;
        cmp(ecx, 3);
        je(user);
        cmp(ecx, 4);
        je(user);
        cmp(ecx, FIRST_USER_VECTOR as i32);
        jb(inner);
        set_label(&mut user);
        or(ebx, 0x6000);
        set_label(&mut inner);
        mov(dword_ptr(edi + 4), ebx);
        add(eax, HANDLER as i32);
        add(edi, 8);
        inc(ecx);
        cmp(ecx, VECTORS as i32);
        jb(next);
    );
    Ok(())
}

fn copy(b: &mut Builder, from: u32, to: u32, words: u32) -> Asm {
    asm!(b; mov(esi, from); mov(edi, to); mov(ecx, words));
    b.a.rep().movsd()
}

fn clear(b: &mut Builder, at: u32, words: u32) -> Asm {
    asm!(b; mov(edi, at); mov(ecx, words));
    b.a.rep().stosd()
}

fn reset(b: &mut Builder) -> Asm {
    let entries = gdt();
    let gdt_template = b.words(&entries);
    let tss = tss();
    let tss_template = b.words(&tss);
    let pointer = |limit: u16, base: u32| [&limit.to_le_bytes()[..], &base.to_le_bytes()].concat();
    let gdtr = b.data(&pointer(GDT_LIMIT, GDT));
    let idtr = b.data(&pointer(IDT_LIMIT, IDT));
    let reload = b.mark();
    b.place(b.rt.reset)?;
    asm!(b;
        pop(ebx);
        cld();
        mov(eax, CR0);
        mov(cr0, eax);
        xor(eax, eax);
        mov(cr4, eax);
        mov(cr3, eax);
        mov(cr2, eax);
        mov(eax, u32::from(sel::DATA0));
        mov(ds, eax);
        mov(es, eax);
    );
    copy(b, gdt_template, GDT, entries.len() as u32)?;
    copy(b, IDT_TEMPLATE, IDT, VECTORS * 2)?;
    copy(b, tss_template, TSS, tss.len() as u32)?;
    let target = b.addr(reload);
    asm!(b;
        lgdt(ptr(gdtr));
        lidt(ptr(idtr));
        mov(ss, eax);
        mov(esp, STACK0);
        push(i32::from(sel::CODE0));
        push(target as i32);
        retf();
    );
    b.place(reload)?;
    b.a.xor(eax, eax)?;
    clear(b, RECORD, 0x42)?;
    clear(b, LOG_LEN, 1)?;
    clear(b, CELLS, CELLS_LEN / 4)?;
    clear(b, LDT, (LDT_LIMIT + 1) / 4)?;
    asm!(b;
        mov(dr7, eax);
        mov(dr0, eax);
        mov(dr1, eax);
        mov(dr2, eax);
        mov(dr3, eax);
        mov(dr6, eax);
        lldt(ax);
        mov(eax, u32::from(sel::TSS));
        ltr(ax);
        mov(eax, u32::from(sel::data(3)));
        mov(ds, eax);
        mov(es, eax);
        mov(fs, eax);
        mov(gs, eax);
        xor(eax, eax);
        xor(ecx, ecx);
        xor(ebp, ebp);
        xor(edx, edx);
        xor(esi, esi);
        xor(edi, edi);
        push(2);
        push(i32::from(sel::CODE0));
        push(ebx);
        iretd();
    );
    Ok(())
}

/// One call per vector, [`HANDLER`] bytes apart: the return address tells which.
fn handlers(b: &mut Builder) -> Asm {
    b.place(b.rt.handlers)?;
    for vector in 0..VECTORS {
        let target = if matches!(vector, 8 | 10..=14 | 17) { b.rt.with_error } else { b.rt.without_error };
        let target = b.at(target);
        asm!(b; call(target); db(&[0x90; 3]));
    }
    Ok(())
}

/// Stack on entry: return address into the table, error code if there is one, EIP, CS, EFLAGS...
fn recorder(b: &mut Builder) -> Asm {
    let handlers = b.addr(b.rt.handlers);
    let [mut has_error, mut end, mut log, mut keep] = std::array::from_fn(|_| b.a.create_label());
    b.place(b.rt.without_error)?;
    asm!(b; push(dword_ptr(esp)); mov(dword_ptr(esp + 4), -1));
    b.place(b.rt.with_error)?;
    asm!(b;
        push(eax);
        mov(eax, dword_ptr(esp + 4));
        sub(eax, handlers as i32);
        sub(eax, 5);
        shr(eax, 3);
        mov(dword_ptr(esp + 4), eax);
        pop(eax);
        pushad();
        push(ds);
        push(es);
        push(fs);
        push(gs);
        cld();
        mov(eax, u32::from(sel::DATA0));
        mov(ds, eax);
        mov(es, eax);
        mov(esi, esp);
        mov(edi, RECORD);
        mov(ecx, rec::STACK_DWORDS);
    );
    b.a.rep().movsd()?;
    let field = |offset: u32| dword_ptr(RECORD + offset);
    asm!(b;
        xor(eax, eax);
        mov(ax, ss);
        mov(field(rec::SS), eax);
        str(eax);
        mov(field(rec::TR), eax);
        sldt(eax);
        mov(field(rec::LDTR), eax);
        mov(eax, cr2);
        mov(field(rec::CR2), eax);
        mov(eax, dr6);
        mov(field(rec::DR6), eax);
        mov(eax, dr7);
        mov(field(rec::DR7), eax);
        mov(eax, cr0);
        mov(field(rec::CR0), eax);
        mov(eax, cr3);
        mov(field(rec::CR3), eax);
        mov(eax, cr4);
        mov(field(rec::CR4), eax);
        lea(ebx, dword_ptr(esp + (rec::ERROR as i32)));
        cmp(field(rec::ERROR), -1);
        jne(has_error);
        add(ebx, 4);
        set_label(&mut has_error);
        mov(field(rec::FRAME), ebx);

        test(dword_ptr(MODE), mode::LOG as i32);
        jz(end);
        cmp(dword_ptr(LOG_LEN), LOG_MAX as i32);
        jae(end);
        mov(eax, field(rec::VECTOR));
        cmp(eax, 4);
        jbe(log);
        cmp(eax, 0x20);
        jb(end);
        cmp(eax, 0x40);
        je(end);
        set_label(&mut log);
        test(eax, eax);
        jz(end);
        mov(edi, dword_ptr(LOG_LEN));
        inc(dword_ptr(LOG_LEN));
        shl(edi, LOG_ENTRY.trailing_zeros());
        add(edi, LOG as i32);
        stosd();
        mov(eax, field(rec::ERROR));
        stosd();
        mov(eax, field(rec::EIP));
        stosd();
        mov(eax, field(rec::DR6));
        stosd();
        xor(eax, eax);
        mov(dr6, eax);
        test(dword_ptr(MODE), 2);
        jz(keep);
        or(dword_ptr(esp + (rec::EFLAGS as i32)), 1 << 16);
        set_label(&mut keep);
        pop(gs);
        pop(fs);
        pop(es);
        pop(ds);
        popad();
        add(esp, 8);
        iretd();

        set_label(&mut end);
        mov(eax, CR0);
        mov(cr0, eax);
        xor(eax, eax);
        mov(dr7, eax);
        mov(eax, u32::from(sel::DATA0));
        mov(ss, eax);
        mov(esp, STACK0);
        push(2);
        popfd();
        jmp(dword_ptr(RESUME));
    );
    Ok(())
}

fn hit(b: &mut Builder) -> Asm {
    b.place(b.rt.hit)?;
    asm!(b;
        mov(eax, dword_ptr(esp));
        mov(ebx, dword_ptr(esp + 4));
        mov(ecx, dword_ptr(esp + 8));
        mov(edx, dword_ptr(esp + 12));
        mov(esi, dword_ptr(esp + 16));
        mov(ebp, dword_ptr(esp + 20));
        mov(edi, esp);
        int(0x41);
    );
    Ok(())
}

fn report(b: &mut Builder) -> Asm {
    let names = NAMES.map(|name| b.text(name));
    let names = b.words(&names);
    let [colon, ok, hit, int, open, close, plus, minus, at, fault_address, newline, space, slash] =
        [": ", "ok", "hit", "int ", "(", ")", " +", " -", " @", " cr2=", "\n", " [", "]"].map(|t| b.text(t));
    let (put, hex) = (b.at(b.rt.put), b.at(b.rt.hex));
    let [mut named, mut high, mut not_ok, mut no_error] = std::array::from_fn(|_| b.a.create_label());
    let [mut far, mut shows, mut next, mut absolute] = std::array::from_fn(|_| b.a.create_label());
    let [mut done, mut entries, mut entries_done, mut address] = std::array::from_fn(|_| b.a.create_label());
    let field = |offset: u32| dword_ptr(RECORD + offset);
    b.place(b.rt.report)?;
    asm!(b;
        mov(ebx, dword_ptr(esi));
        call(put);
        mov(ebx, colon);
        call(put);
        mov(eax, field(rec::VECTOR));
        mov(ebx, ok);
        cmp(eax, 0x40);
        jne(not_ok);
        call(put);
        jmp(shows);
        set_label(&mut not_ok);
        mov(ebx, hit);
        cmp(eax, 0x41);
        jne(high);
        call(put);
        jmp(shows);
        set_label(&mut high);
        cmp(eax, 0x20);
        jb(named);
        mov(ebx, int);
        call(put);
        call(hex);
        jmp(no_error);
        set_label(&mut named);
        mov(ebx, dword_ptr(eax * 4 + names));
        call(put);
        mov(eax, field(rec::ERROR));
        cmp(eax, -1);
        je(no_error);
        mov(ebx, open);
        call(put);
        call(hex);
        mov(ebx, close);
        call(put);
        set_label(&mut no_error);
        mov(eax, field(rec::EIP));
        call(address);
        cmp(field(rec::VECTOR), 14);
        jne(shows);
        mov(ebx, fault_address);
        call(put);
        mov(eax, field(rec::CR2));
        call(hex);

        set_label(&mut shows);
        mov(ecx, dword_ptr(esi + 4));
        add(esi, 8);
        set_label(&mut next);
        test(ecx, ecx);
        jz(done);
        mov(ebx, dword_ptr(esi));
        call(put);
        mov(eax, dword_ptr(esi + 4));
        mov(eax, dword_ptr(eax));
        and(eax, dword_ptr(esi + 8));
        cmp(dword_ptr(esi + 12), 0);
        je(absolute);
        test(eax, eax);
        jz(absolute);
        sub(eax, ebp);
        set_label(&mut absolute);
        call(hex);
        add(esi, 16);
        dec(ecx);
        jmp(next);

        set_label(&mut done);
        mov(ecx, dword_ptr(LOG_LEN));
        mov(esi, LOG);
        set_label(&mut entries);
        test(ecx, ecx);
        jz(entries_done);
        mov(ebx, space);
        call(put);
        mov(eax, dword_ptr(esi));
        call(hex);
        mov(eax, dword_ptr(esi + 8));
        call(address);
    );
    let first_case = b.addr(b.rt.first_case);
    // Addresses in the runtime change with every change of it.
    let runtime = b.text(" @runtime");
    let [mut no_dr6, mut away, mut elsewhere] = std::array::from_fn(|_| b.a.create_label());
    let dr6_text = b.text(" dr6=");
    asm!(b;
        cmp(dword_ptr(esi), 1);
        jne(no_dr6);
        mov(ebx, dr6_text);
        call(put);
        mov(eax, dword_ptr(esi + 12));
        and(eax, 0xE00F);
        call(hex);
        set_label(&mut no_dr6);
        mov(ebx, slash);
        call(put);
        add(esi, LOG_ENTRY as i32);
        dec(ecx);
        jmp(entries);
        set_label(&mut entries_done);
        mov(ebx, newline);
        call(put);
        ret();

        // EIP in EAX: a distance, or an address if it is far away.
        set_label(&mut address);
        mov(ebx, plus);
        mov(edx, eax);
        sub(edx, ebp);
        cmp(edx, 0x1000);
        jae(far);
        mov(eax, edx);
        call(put);
        jmp(hex);
        set_label(&mut far);
        neg(edx);
        cmp(edx, 0x1000);
        jae(away);
        mov(ebx, minus);
        mov(eax, edx);
        call(put);
        jmp(hex);
        set_label(&mut away);
        cmp(eax, LOAD as i32);
        jb(elsewhere);
        cmp(eax, first_case as i32);
        jae(elsewhere);
        mov(ebx, runtime);
        jmp(put);
        set_label(&mut elsewhere);
        mov(ebx, at);
        call(put);
        jmp(hex);
    );
    Ok(())
}

/// `put` sends the text at EBX, `hex` EAX without leading zeros, `send` the character AL. All keep the
/// registers but EBX.
fn output(b: &mut Builder) -> Asm {
    let send = b.at(b.rt.send);
    b.place(b.rt.put)?;
    let [mut again, mut end, mut digit, mut skip, mut print, mut low, mut wait] =
        std::array::from_fn(|_| b.a.create_label());
    asm!(b;
        push(eax);
        set_label(&mut again);
        movzx(eax, byte_ptr(ebx));
        test(al, al);
        jz(end);
        call(send);
        inc(ebx);
        jmp(again);
        set_label(&mut end);
        pop(eax);
        ret();
    );
    b.place(b.rt.hex)?;
    asm!(b;
        push(eax);
        push(ecx);
        push(edx);
        mov(edx, eax);
        mov(ecx, 8);
        set_label(&mut digit);
        rol(edx, 4);
        test(dl, 15);
        jnz(print);
        cmp(ecx, 1);
        je(print);
        set_label(&mut skip);
        dec(ecx);
        jmp(digit);
        set_label(&mut print);
        mov(eax, edx);
        and(eax, 15);
        add(eax, i32::from(b'0'));
        cmp(eax, i32::from(b'9'));
        jbe(low);
        add(eax, 39);
        set_label(&mut low);
        call(send);
        dec(ecx);
    );
    let mut finish = b.a.create_label();
    asm!(b;
        jz(finish);
        rol(edx, 4);
        jmp(print);
        set_label(&mut finish);
        pop(edx);
        pop(ecx);
        pop(eax);
        ret();
    );
    b.place(b.rt.send)?;
    asm!(b;
        push(edx);
        push(eax);
        mov(edx, COM1 + 5);
        set_label(&mut wait);
        in_(al, dx);
        test(al, 0x20);
        jz(wait);
        pop(eax);
        mov(edx, COM1);
        out(dx, al);
        pop(edx);
        ret();
    );
    Ok(())
}
