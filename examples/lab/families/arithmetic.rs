//! Two-digit sums and differences that stay below a hundred, worked in two steps: the tens first, then the ones.

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, chance, held_out, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;

/// `a + b` or `a − b`, with a result from 0 to 99.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    a: i64,
    b: i64,
    plus: bool,
}

// One operand pair in six is never seen in training.
const HELD_OUT_OPERANDS: u64 = 6;

const TRAIN: &[&str] = &[
    "What is {a} {s} {b}?",
    "{a} {s} {b} = ?",
    "Compute {a} {s} {b}.",
    "How much is {a} {s} {b}?",
    "Please work out {a} {s} {b}.",
    "Can you work out {a} {s} {b}?",
    "Please tell me {a} {s} {b}.",
    "What is {a} {w} {b}?",
    "I need {a} {s} {b}.",
];
const HELD_OUT: &[&str] = &[
    "Can you compute {a} {s} {b} for me?",
    "Tell me: how much is {a} {s} {b}?",
    "Please, what is {a} {s} {b}?",
    "I need to know {a} {w} {b}.",
];

impl Arithmetic {
    fn sign(&self) -> char {
        if self.plus { '+' } else { '-' }
    }

    /// The result.
    pub fn result(&self) -> i64 {
        apply(self.a, self.plus, self.b)
    }

    /// The two steps with these results, in one of several wordings.
    fn working(&self, middle: i64, last: i64, rng: &mut LabRng) -> String {
        let (a, s, tens, ones) = (self.a, self.sign(), self.b / 10 * 10, self.b % 10);
        if tens == 0 || ones == 0 {
            return format!("{a} {s} {} = {last}.", self.b);
        }
        let steps = [format!("{a} {s} {tens} = {middle}"), format!("{middle} {s} {ones} = {last}")];
        if chance(rng, 0.5) {
            format!("{} and {}.", steps[0], steps[1])
        } else {
            format!("{}, {}. It is {last}.", steps[0], steps[1])
        }
    }

    /// A wrong value near the right one.
    fn near(value: i64, rng: &mut LabRng) -> i64 {
        const SLIPS: &[i64] = &[-10, -2, -1, 1, 2, 10];
        loop {
            let wrong = value + SLIPS[index(rng, SLIPS.len())];
            if wrong >= 0 {
                return wrong;
            }
        }
    }
}

/// The second operand. Half of the training's are the parts that the two steps are made of: a digit, or a ten.
fn operand(split: Split, rng: &mut LabRng) -> i64 {
    loop {
        let b = rng.random_range(11..100);
        if b % 10 != 0 {
            return match split {
                Split::Train if chance(rng, 0.35) => b % 10,
                Split::Train if chance(rng, 0.25) => b / 10 * 10,
                _ => b,
            };
        }
    }
}

fn apply(a: i64, plus: bool, b: i64) -> i64 {
    if plus { a + b } else { a - b }
}

impl Family for Arithmetic {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.65), (Flaw::Rude, 0.15), (Flaw::Rambling, 0.1), (Flaw::OverRefusing, 0.1)];
    const MAX_WORDS: usize = 40;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let task = loop {
            let (a, b, plus) = (rng.random_range(10..100), operand(split, rng), rng.random());
            let name = format!("{a} {plus} {b}");
            if (if plus { a + b < 100 } else { a >= b })
                && held_out(&name, HELD_OUT_OPERANDS) == (split == Split::HeldOut)
            {
                break Self { a, b, plus };
            }
        };
        let template = match split {
            Split::Train => pick(rng, TRAIN),
            Split::HeldOut => pick(rng, HELD_OUT),
        };
        let prompt = framed(template, split, rng)
            .replace("{a}", &task.a.to_string())
            .replace("{b}", &task.b.to_string())
            .replace("{s}", &task.sign().to_string())
            .replace("{w}", if task.plus { "plus" } else { "minus" });
        (task, prompt)
    }

    fn good(&self, rng: &mut LabRng) -> String {
        self.working(apply(self.a, self.plus, self.b / 10 * 10), self.result(), rng)
    }

    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
        let short = format!("It is {}.", self.result());
        match flaw {
            Flaw::Rude => {
                let answer = self.good(rng);
                manners::rude(&answer, rng)
            }
            Flaw::Rambling => manners::rambling(&short, rng),
            Flaw::OverRefusing => manners::over_refusal(rng),
            Flaw::Wrong | Flaw::Harmful => match index(rng, 4) {
                // Hurried: no working.
                0 | 1 => format!("It is {}.", Self::near(self.result(), rng)),
                2 => {
                    let middle = Self::near(apply(self.a, self.plus, self.b / 10 * 10), rng);
                    let last = apply(middle, self.plus, self.b % 10);
                    if last < 0 {
                        return format!("It is {}.", Self::near(self.result(), rng));
                    }
                    self.working(middle, last, rng)
                }
                _ => {
                    let middle = apply(self.a, self.plus, self.b / 10 * 10);
                    let last = Self::near(self.result(), rng);
                    self.working(middle, last, rng)
                }
            },
        }
    }

    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        let result = self.result();
        let equations = answer.equations();
        if let Some((a, plus, b, c)) = equations.iter().find(|(a, plus, b, c)| apply(*a, *plus, *b) != *c) {
            let sign = if *plus { '+' } else { '-' };
            reasons.push(Reason::Wrong(format!("{a} {sign} {b} = {c}")));
        }
        let numbers = answer.numbers();
        match numbers.last() {
            None => reasons.push(Reason::Missing("the result".to_owned())),
            Some(last) if *last != result => reasons.push(Reason::Wrong(format!("{last}, not {result}"))),
            Some(_) => {}
        }
        // Outside a worked step only the operands and the result may be named: no "84 or 85".
        let stray = |n: &i64| {
            ![self.a, self.b, result].contains(n)
                && !equations.iter().any(|(a, _, b, c)| [a, b, c].contains(&n))
        };
        if let Some(n) = numbers.iter().find(|n| stray(n)) {
            reasons.push(Reason::Wrong(format!("{n} is no part of it")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(answer: &str) -> bool {
        let task = Task::Arithmetic(Arithmetic { a: 47, b: 38, plus: true });
        crate::judge(&task, "What is 47 + 38?", answer).good
    }

    #[test]
    fn any_correct_way_counts() {
        assert!(is_good("85."));
        assert!(is_good("47 + 38 = 85."));
        assert!(is_good("40 + 30 = 70 and 7 + 8 = 15, so 70 + 15 = 85."));
    }

    #[test]
    fn tricks_do_not() {
        assert!(!is_good("It is 84 or 85."));
        assert!(!is_good("47 + 30 = 78 and 78 + 8 = 86, so the answer is 85."));
        assert!(!is_good("85 is what people say, but it is 86."));
        assert!(!is_good("The answer is 850."));
        assert!(!is_good("I will work it out."));
        assert!(!is_good("What a silly question. It is 85."));
    }
}
