//! Which instructions this machine has. Leaves what is done with them to the operations.

use std::sync::{LazyLock, OnceLock};

/// Instruction sets the kernels are written for, from the plainest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the oracle of the others.
    Portable,
    /// 128-bit Arm.
    Neon,
    /// 256-bit x86 with fused multiply-add.
    Avx2,
    /// 512-bit x86.
    Avx512,
    /// 512-bit x86 with dot products of bytes.
    Avx512Vnni,
    /// 512-bit x86 with dot products of bytes and arithmetic in half precision.
    Avx512Fp16,
    /// 512-bit x86 with dot products of bytes and of bfloat16.
    Avx512Bf16,
    /// 512-bit x86 with dot products of bytes, arithmetic in half precision, and products of tiles of bfloat16 and of bytes
    /// (AMX).
    Amx,
}

impl Isa {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Portable,
        Self::Neon,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Fp16,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// The fastest this machine has.
    ///
    /// That it has bf16 dot products does not make them fast: Intel's cores start one `vdpbf16ps` in two cycles and four
    /// `vfmadd` in the same time (measured on Emerald Rapids), AMD's four of each.
    pub fn detect() -> Self {
        static FASTEST: OnceLock<Isa> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            let fast = |isa: &Self| *isa != Self::Avx512Bf16 || fast_bf16_dot();
            Self::supported().filter(fast).last().unwrap_or(Self::Portable)
        })
    }

    /// Those this machine has, from the plainest to the fastest.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_supported())
    }

    /// Whether this machine has it.
    pub fn is_supported(self) -> bool {
        static SUPPORTED: LazyLock<[bool; Isa::ALL.len()]> = LazyLock::new(|| Isa::ALL.map(Isa::is_there));
        SUPPORTED[self as usize]
    }

    /// Asks the machine.
    fn is_there(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_there()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_there() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Fp16 => Self::Avx512Vnni.is_there() && is_x86_feature_detected!("avx512fp16"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512Vnni.is_there() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Fp16.is_there() && Self::Avx512Bf16.is_there() && crate::simd::has_amx(),
            _ => false,
        }
    }
}

/// Whether `vdpbf16ps` runs at the rate of `vfmadd`.
#[cfg(target_arch = "x86_64")]
fn fast_bf16_dot() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn fast_bf16_dot() -> bool {
    false
}
