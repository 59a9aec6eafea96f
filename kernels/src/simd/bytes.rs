//! Sums of products of bytes, a word at a time: for instruction sets without such instructions, and the oracle of those that
//! have them. Leaves vectors to [`super::Simd`].

use super::LANES;

type Words = [u32; LANES];

/// The two halves of a word as signed numbers.
#[inline(always)]
fn halves(word: u32) -> [i32; 2] {
    [i32::from(word as u16 as i16), i32::from((word >> 16) as u16 as i16)]
}

/// [`super::Simd::dot_bytes`].
#[inline(always)]
pub(super) fn dot(acc: Words, c: Words, a: Words) -> Words {
    std::array::from_fn(|i| {
        let products = c[i].to_le_bytes().into_iter().zip(a[i].to_le_bytes());
        products
            .fold(acc[i], |sum, (c, a)| sum.wrapping_add_signed(i32::from(c) * i32::from(a.cast_signed())))
    })
}

/// [`super::Simd::dot_pairs`].
#[inline(always)]
pub(super) fn dot_pairs(acc: Words, c: Words, a: [Words; 2]) -> Words {
    std::array::from_fn(|i| {
        let codes = c[i].to_le_bytes().map(i32::from);
        let ([a0, a2], [a1, a3]) = (halves(a[0][i]), halves(a[1][i]));
        let products = codes.into_iter().zip([a0, a1, a2, a3]);
        products.fold(acc[i], |sum, (c, a)| sum.wrapping_add_signed(c * a))
    })
}

/// [`super::Simd::add_products`].
#[inline(always)]
pub(super) fn add_products(sums: Words, c: Words, a: Words) -> Words {
    std::array::from_fn(|i| {
        let (c, a) =
            (c[i].to_le_bytes().map(i32::from), a[i].to_le_bytes().map(|a| i32::from(a.cast_signed())));
        let [low, high] = halves(sums[i]);
        let (low, high) = (low + c[0] * a[0] + c[1] * a[1], high + c[2] * a[2] + c[3] * a[3]);
        u32::from(low as u16) | u32::from(high as u16) << 16
    })
}

/// [`super::Simd::add_sums`].
#[inline(always)]
pub(super) fn add_sums(acc: Words, sums: Words) -> Words {
    std::array::from_fn(|i| halves(sums[i]).into_iter().fold(acc[i], u32::wrapping_add_signed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::isa::Isa;
    use crate::simd::{Op, Simd, dispatch};

    /// All four, of one vector each.
    struct All(Words, Words, [Words; 2]);

    impl Op for All {
        type Output = [Words; 4];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [Words; 4] {
            let [acc, c] = [s.load_words(&self.0), s.load_words(&self.1)];
            let a = [s.load_words(&self.2[0]), s.load_words(&self.2[1])];
            // Codes that leave room for the sums.
            let small = s.bits(c, 2, 0x3f3f_3f3f);
            let sums = s.add_products(s.add_products(s.splat_word(0), small, a[0]), small, a[0]);
            [s.dot_bytes(acc, c, a[0]), s.dot_pairs(acc, c, a), sums, s.add_sums(acc, sums)]
                .map(|x| s.words(x))
        }
    }

    proptest! {
        #[test]
        fn every_instruction_set_sums_alike(
            acc in prop::array::uniform16(any::<u32>()),
            c in prop::array::uniform16(prop_oneof![any::<u32>(), Just(u32::MAX)]),
            a in prop::array::uniform16(prop::array::uniform4(prop_oneof![-127i8..=127, Just(127), Just(-127)])),
        ) {
            let word = |a: i8| u32::from(i16::from(a) as u16);
            let pair = |i: usize, j: usize| a.map(|a| word(a[i]) | word(a[j]) << 16);
            let bytes = a.map(|a| u32::from_le_bytes(a.map(i8::cast_unsigned)));
            let small = c.map(|c| c >> 2 & 0x3f3f_3f3f);
            let dots = dot(acc, c, bytes);
            let sums = add_products(add_products([0; LANES], small, bytes), small, bytes);
            prop_assert_eq!(dot_pairs(acc, c, [pair(0, 2), pair(1, 3)]), dots);
            prop_assert_eq!(add_sums(acc, sums), dot(dot(acc, small, bytes), small, bytes));
            for isa in Isa::supported() {
                let actual = dispatch(isa, All(acc, c, [pair(0, 2), pair(1, 3)]));
                prop_assert_eq!(actual[1], dots, "{:?}", isa);
                let [dots_of, _, sums_of, total] = dispatch(isa, All(acc, c, [bytes, bytes]));
                prop_assert_eq!(dots_of, dots, "{:?}", isa);
                prop_assert_eq!(sums_of, sums, "{:?}", isa);
                prop_assert_eq!(total, add_sums(acc, sums), "{:?}", isa);
            }
        }
    }
}
