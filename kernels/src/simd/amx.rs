//! The matrix instructions of x86 (AMX), in assembly: the compiler has no stable names for them, and no use of its own for
//! their registers. Leaves what is multiplied to `tiles` and who multiplies to `linear`.
#![expect(unsafe_code, reason = "assembly")]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use super::LANES;
use super::tiles::{Bytes, Gathered, Pairs};

/// Bytes of a row of a tile.
const LINE: usize = 64;

/// Whether the processor has tiles of bf16 and of bytes, and the system lets this process use them.
pub(crate) fn has_amx() -> bool {
    /// In `edx` of leaf 7: `AMX-BF16`, `AMX-TILE` and `AMX-INT8`.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let has_leaf = __cpuid(0).eax >= 7;
        has_leaf && __cpuid_count(7, 0).edx & FEATURES == FEATURES && is_permitted()
    })
}

/// Asks Linux for the registers, which it gives to whole processes, and to those alone that ask.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a call of the system that touches no memory of ours; it changes `rax`, `rcx` and `r11`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// How large the eight tiles are: `TILECFG` of palette 1.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Sums in the tiles 0 to 3, rows in 4 and 5, columns in 6 and 7: those of even numbers have columns of `depths[0]` words, the odd
/// ones of `depths[1]`.
///
/// # Safety
/// There must be tiles, see [`has_amx`].
#[inline(always)]
pub(super) unsafe fn configure(depths: [usize; 2]) {
    let mut configuration =
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    configuration.row_bytes[..8].fill(LINE as u16);
    configuration.rows[..8].fill(LANES as u8);
    for (kind, depth) in depths.into_iter().enumerate() {
        let depth = depth.clamp(1, LANES);
        configuration.row_bytes[4 + kind] = 4 * depth as u16;
        configuration.rows[6 + kind] = depth as u8;
    }
    // SAFETY: a configuration that palette 1 allows.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) }
}

/// Gives the tiles back: with them in use threads take longer to switch.
///
/// # Safety
/// As [`configure`].
#[inline(always)]
pub(super) unsafe fn release() {
    // SAFETY: promised by the caller.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// One product of [`multiply`]: what clears sums or fetches them, a step of `$rows` tiles of rows, and what writes sums. For sums
/// `{i}` runs over tiles of rows.
macro_rules! product {
    ($product:expr, $rows:literal; zero $($zero:literal)*; fetch $($fetch:literal)*; step $($step:literal)*; write $($write:literal)*) => {
        asm!(
            "test {i}, {i}",
            "mov {i}, {sums}",
            "jz 2f",
            $($fetch,)*
            "jmp 3f",
            "2:",
            $($zero,)*
            "3:",
            $($step,)*
            "mov {i}, {lines}",
            "test {i}, {i}",
            "jz 5f",
            "4:",
            "prefetcht1 [{n0}]",
            "prefetcht1 [{n0} + {apart}]",
            "prefetcht1 [{n1}]",
            "prefetcht1 [{n1} + {apart}]",
            "add {n0}, {further}",
            "add {n1}, {further}",
            "dec {i}",
            "jnz 4b",
            "5:",
            concat!("add {a}, 1024 * ", $rows),
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 3b",
            "mov {i}, {sums}",
            $($write,)*
            i = inout(reg) usize::from($product.sums.resume) => _,
            sums = in(reg) $product.sums.start,
            stride = in(reg) 4 * $product.sums.row_step,
            line = in(reg) LINE,
            a = inout(reg) $product.rows => _,
            b0 = inout(reg) $product.columns[0] => _,
            b1 = inout(reg) $product.columns[1] => _,
            n0 = inout(reg) $product.ahead.places[0] => _,
            n1 = inout(reg) $product.ahead.places[1] => _,
            apart = in(reg) 4 * $product.ahead.apart,
            further = in(reg) 4 * $product.ahead.stride,
            lines = in(reg) $product.ahead.lines,
            steps = inout(reg) $product.steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The product of `shape` tiles of rows and of columns. Rows of a square pass by: many of them meet columns that stay in the nearest
/// cache, from which they would drive these out.
///
/// # Safety
/// As [`super::Simd::multiply_tiles`]; there must be tiles, see [`has_amx`].
#[inline(always)]
pub(super) unsafe fn multiply(shape: (usize, usize), product: &Pairs) {
    if product.steps == 0 {
        return;
    }
    // SAFETY: what is read and written is promised by the caller, and what is asked for in advance need not exist.
    unsafe {
        match shape {
            (1, 1) => product!(product, 1;
                zero "tilezero tmm0";
                fetch "tileloadd tmm0, [{i} + {stride}]";
                step
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tileloadd tmm4, [{a} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6";
                write "tilestored [{i} + {stride}], tmm0"),
            (_, 1) => product!(product, 2;
                zero "tilezero tmm0" "tilezero tmm1";
                fetch
                    "tileloadd tmm0, [{i} + {stride}]"
                    "mov {i}, {stride}" "shl {i}, 4" "add {i}, {sums}"
                    "tileloadd tmm1, [{i} + {stride}]";
                step
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tileloadd tmm4, [{a} + {line}]"
                    "tileloadd tmm5, [{a} + {line} + 1024]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tdpbf16ps tmm1, tmm5, tmm6";
                write
                    "tilestored [{i} + {stride}], tmm0"
                    "mov {i}, {stride}" "shl {i}, 4" "add {i}, {sums}"
                    "tilestored [{i} + {stride}], tmm1"),
            (1, _) => product!(product, 1;
                zero "tilezero tmm0" "tilezero tmm1";
                fetch
                    "tileloadd tmm0, [{i} + {stride}]"
                    "tileloadd tmm1, [{i} + {stride} + 64]";
                step
                    "tileloadd tmm4, [{a} + {line}]"
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tileloadd tmm7, [{b1} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tdpbf16ps tmm1, tmm4, tmm7";
                write
                    "tilestored [{i} + {stride}], tmm0"
                    "tilestored [{i} + {stride} + 64], tmm1"),
            _ => product!(product, 2;
                zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
                fetch
                    "tileloadd tmm0, [{i} + {stride}]"
                    "tileloadd tmm1, [{i} + {stride} + 64]"
                    "mov {i}, {stride}" "shl {i}, 4" "add {i}, {sums}"
                    "tileloadd tmm2, [{i} + {stride}]"
                    "tileloadd tmm3, [{i} + {stride} + 64]";
                step
                    "tileloaddt1 tmm4, [{a} + {line}]"
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tileloadd tmm7, [{b1} + {line}]"
                    "tdpbf16ps tmm0, tmm4, tmm6"
                    "tileloaddt1 tmm5, [{a} + {line} + 1024]"
                    "tdpbf16ps tmm1, tmm4, tmm7"
                    "tdpbf16ps tmm2, tmm5, tmm6"
                    "tdpbf16ps tmm3, tmm5, tmm7";
                write
                    "tilestored [{i} + {stride}], tmm0"
                    "tilestored [{i} + {stride} + 64], tmm1"
                    "mov {i}, {stride}" "shl {i}, 4" "add {i}, {sums}"
                    "tilestored [{i} + {stride}], tmm2"
                    "tilestored [{i} + {stride} + 64], tmm3"),
        }
    }
}

/// One product of [`multiply_gathered`]: `$j` runs over tiles of columns; `$a` and `$b` are the registers of rows and of one of those.
macro_rules! gathered {
    ($product:expr, $a:literal $b:literal, $columns:literal: $($j:literal)*) => {
        asm!(
            "test {i}, {i}",
            "jz 2f",
            $(concat!("tileloadd tmm", $j, ", [{sums} + {stride} + 64 * ", $j, "]"),)*
            "jmp 3f",
            "2:",
            $(concat!("tilezero tmm", $j),)*
            "3:",
            concat!("tileloadd ", $a, ", [{a} + {row_step}]"),
            $(
                concat!("mov {i}, [{tiles} + 8 * ", $j, "]"),
                concat!("tileloadd ", $b, ", [{i} + {word_step}]"),
                concat!("tdpbf16ps tmm", $j, ", ", $a, ", ", $b),
                "mov {left}, {lines}",
                "test {left}, {left}",
                "jz 5f",
                concat!("mov {i}, [{ahead} + 8 * ", $j, "]"),
                "4:",
                "prefetcht0 [{i}]",
                "add {i}, 64",
                "dec {left}",
                "jnz 4b",
                "5:",
            )*
            concat!("add {ahead}, 8 * ", $columns),
            "add {a}, {depth}",
            concat!("add {tiles}, 8 * ", $columns),
            "dec {steps}",
            "jnz 3b",
            $(concat!("tilestored [{sums} + {stride} + 64 * ", $j, "], tmm", $j),)*
            i = inout(reg) usize::from($product.sums.resume) => _,
            sums = in(reg) $product.sums.start,
            stride = in(reg) 4 * $product.sums.row_step,
            a = inout(reg) $product.rows => _,
            row_step = in(reg) 4 * $product.row_step,
            depth = in(reg) 4 * $product.depth,
            tiles = inout(reg) $product.tiles.as_ptr() => _,
            word_step = in(reg) 4 * $product.word_step,
            ahead = inout(reg) $product.ahead.as_ptr() => _,
            lines = in(reg) if $product.ahead.is_empty() { 0 } else { $product.depth },
            left = out(reg) _,
            steps = inout(reg) $product.tiles.len() / $columns => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// A product of tiles wherever they lie.
///
/// # Safety
/// As [`super::Simd::multiply_gathered`]; there must be tiles, see [`has_amx`].
#[inline(always)]
pub(super) unsafe fn multiply_gathered(product: &Gathered<'_>) {
    if product.tiles.len() < product.columns {
        return;
    }
    // SAFETY: what is read and written is promised by the caller.
    unsafe {
        match (product.depth, product.columns) {
            (LANES, 1) => gathered!(product, "tmm4" "tmm6", 1: 0),
            (LANES, 2) => gathered!(product, "tmm4" "tmm6", 2: 0 1),
            (LANES, 3) => gathered!(product, "tmm4" "tmm6", 3: 0 1 2),
            (LANES, _) => gathered!(product, "tmm4" "tmm6", 4: 0 1 2 3),
            (_, 1) => gathered!(product, "tmm5" "tmm7", 1: 0),
            (_, 2) => gathered!(product, "tmm5" "tmm7", 2: 0 1),
            (_, 3) => gathered!(product, "tmm5" "tmm7", 3: 0 1 2),
            _ => gathered!(product, "tmm5" "tmm7", 4: 0 1 2 3),
        }
    }
}

/// One product of [`dot`]: what clears its integers, a step of it, and what writes them.
macro_rules! dots {
    ($product:expr; zero $($zero:literal)*; step $($step:literal)*; write $($write:literal)*) => {
        asm!(
            $($zero,)*
            "2:",
            $($step,)*
            "add {a0}, {depth}",
            "add {a1}, {depth}",
            "add {b0}, {tile}",
            "add {b1}, {tile}",
            "dec {steps}",
            "jnz 2b",
            $($write,)*
            a0 = inout(reg) $product.rows[0] => _,
            a1 = inout(reg) $product.rows[1] => _,
            b0 = inout(reg) $product.columns[0] => _,
            b1 = inout(reg) $product.columns[1] => _,
            row = in(reg) 4 * $product.depth * $product.steps,
            depth = in(reg) 4 * $product.depth,
            tile = in(reg) LINE * $product.depth,
            line = in(reg) LINE,
            steps = inout(reg) $product.steps => _,
            out = in(reg) $product.dots,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The product of `shape` tiles of rows and of columns of bytes, as deep as [`configure`] was told for both kinds.
///
/// # Safety
/// As [`super::Simd::dot_tiles`]; there must be tiles, see [`has_amx`].
#[inline(always)]
pub(super) unsafe fn dot(shape: (usize, usize), product: &Bytes) {
    if product.steps == 0 {
        return;
    }
    // SAFETY: what is read and written is promised by the caller.
    unsafe {
        match shape {
            (1, 1) => dots!(product;
                zero "tilezero tmm0";
                step
                    "tileloadd tmm4, [{a0} + {row}]"
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tdpbsud tmm0, tmm4, tmm6";
                write "tilestored [{out} + {line}], tmm0"),
            (_, 1) => dots!(product;
                zero "tilezero tmm0" "tilezero tmm1";
                step
                    "tileloadd tmm4, [{a0} + {row}]"
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tdpbsud tmm0, tmm4, tmm6"
                    "tileloadd tmm5, [{a1} + {row}]"
                    "tdpbsud tmm1, tmm5, tmm6";
                write
                    "tilestored [{out} + {line}], tmm0"
                    "tilestored [{out} + {line} + 1024], tmm1"),
            (1, _) => dots!(product;
                zero "tilezero tmm0" "tilezero tmm1";
                step
                    "tileloadd tmm4, [{a0} + {row}]"
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tdpbsud tmm0, tmm4, tmm6"
                    "tileloadd tmm7, [{b1} + {line}]"
                    "tdpbsud tmm1, tmm4, tmm7";
                write
                    "tilestored [{out} + {line}], tmm0"
                    "tilestored [{out} + {line} + 1024], tmm1"),
            _ => dots!(product;
                zero "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
                step
                    "tileloaddt1 tmm4, [{a0} + {row}]"
                    "tileloadd tmm6, [{b0} + {line}]"
                    "tdpbsud tmm0, tmm4, tmm6"
                    "tileloadd tmm7, [{b1} + {line}]"
                    "tdpbsud tmm1, tmm4, tmm7"
                    "tileloaddt1 tmm5, [{a1} + {row}]"
                    "tdpbsud tmm2, tmm5, tmm6"
                    "tdpbsud tmm3, tmm5, tmm7";
                write
                    "tilestored [{out} + {line}], tmm0"
                    "tilestored [{out} + {line} + 1024], tmm1"
                    "tilestored [{out} + {line} + 2048], tmm2"
                    "tilestored [{out} + {line} + 3072], tmm3"),
        }
    }
}
