//! Two-digit sums below a hundred and differences without borrowing, worked in three steps: the tens, the ones, and
//! both together.

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, chance, held_out, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;

/// `a + b` below a hundred, or `a − b` without borrowing.
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

    /// The three steps, the tens and the ones apart and then together, with what each of them gives.
    fn working(&self, steps: [i64; 3], rng: &mut LabRng) -> String {
        let (a, b, s, [tens, ones, last]) = (self.a, self.b, self.sign(), steps);
        let parts =
            format!("{} {s} {} = {tens}, {} {s} {} = {ones}", a / 10 * 10, b / 10 * 10, a % 10, b % 10);
        if chance(rng, 0.5) {
            format!("{parts} and {tens} + {ones} = {last}.")
        } else {
            format!("{parts}, so it is {last}.")
        }
    }

    /// What the three steps give if they are right.
    fn steps(&self) -> [i64; 3] {
        let tens = apply(self.a / 10 * 10, self.plus, self.b / 10 * 10);
        let ones = apply(self.a % 10, self.plus, self.b % 10);
        [tens, ones, tens + ones]
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

fn apply(a: i64, plus: bool, b: i64) -> i64 {
    if plus { a + b } else { a - b }
}

impl Family for Arithmetic {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.3), (Flaw::Rude, 0.3), (Flaw::Rambling, 0.2), (Flaw::OverRefusing, 0.2)];
    const MAX_WORDS: usize = 40;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let task = loop {
            let (a, b, plus) = (rng.random_range(10..100), rng.random_range(10..100), rng.random());
            let name = format!("{a} {plus} {b}");
            if (if plus { a + b < 100 } else { a >= b && a % 10 >= b % 10 })
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
        self.working(self.steps(), rng)
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
                // A slip in one of the steps, and what follows from it.
                slip => {
                    let mut steps = self.steps();
                    let at = if slip == 2 { index(rng, 2) } else { 2 };
                    steps[at] = Self::near(steps[at], rng);
                    if at < 2 {
                        steps[2] = steps[0] + steps[1];
                    }
                    self.working(steps, rng)
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
