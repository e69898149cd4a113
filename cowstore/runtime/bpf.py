"""Compiles rules about system calls to the classic BPF that seccomp(2) takes. A pure function.

Numbers that mean the same action are told by a binary search over ranges, so that a call costs some seven instructions
however many are listed; calls judged by their arguments come before that.
"""

from __future__ import annotations

import struct
import sys

from cowstore._frozen import frozen
from cowstore._linux.seccomp import MAX_INSTRUCTIONS, RET_ALLOW, RET_ERRNO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOAD, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, AND, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06
"""Operations. Source: include/uapi/linux/bpf_common.h."""

NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
"""Where struct seccomp_data has what. Source: include/uapi/linux/seccomp.h."""

X32_BIT = 0x40000000
ENOSYS = 38

Code = list[tuple[int, int, int, int]]
"""Instructions: operation, jump if true, jump if false, constant; jumps count what is left out."""


@frozen
class Condition:
    """What one argument must be.

    :ivar index: of the argument, 0 to 5. :ivar operation: ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, or ``&`` for
        equal after masking. :ivar value: compared with; for ``&`` the mask. :ivar masked: what is left, for ``&``.
    :ivar low: only the low half counts, as the kernel takes an int there.
    """

    index: int
    operation: str
    value: int
    masked: int = 0
    low: bool = False


@frozen
class Rule:
    """What becomes of a call if all conditions hold.

    :ivar action: a value for the kernel to be returned by the filter.
    """

    action: int
    conditions: tuple[Condition, ...] = ()


def compile_filter(
    architectures: Sequence[tuple[int, bool, Mapping[int, tuple[Rule, ...]]]], *, default: int, foreign: int
) -> bytes:
    """Return the program.

    :param architectures: the AUDIT_ARCH number of each, whether its numbers have an x32 twin to refuse, and its rules
        by number; the first rule whose conditions hold decides.
    :param default: what becomes of a call without a rule, or of which none holds.
    :param foreign: the same of every call of any other architecture.
    :raises ValueError: the program would be longer than the kernel takes.
    """
    code: Code = [(LOAD, 0, 0, ARCHITECTURE_AT)]
    for number, has_x32, rules in architectures:
        body = _architecture(rules, default, has_x32=has_x32)
        code += _unless((JUMP_EQUAL, number), body)
    code.append((RETURN, 0, 0, foreign))
    if len(code) > MAX_INSTRUCTIONS:
        raise ValueError(f"the filter has {len(code)} instructions; the kernel takes {MAX_INSTRUCTIONS}")
    order = "<" if sys.byteorder == "little" else ">"
    return b"".join(struct.pack(f"{order}HBBI", *instruction) for instruction in code)


def _unless(test: tuple[int, int], body: Code) -> Code:
    """Do *body* if the test holds, and jump over it if not, however long it is."""
    operation, constant = test
    if len(body) <= 255:
        return [(operation, 0, len(body), constant), *body]
    return [(operation, 1, 0, constant), (JUMP, 0, 0, len(body)), *body]


def _architecture(rules: Mapping[int, tuple[Rule, ...]], default: int, *, has_x32: bool) -> Code:
    code: Code = [(LOAD, 0, 0, NUMBER_AT)]
    if has_x32:
        code += [(JUMP_GREATER_EQUAL, 0, 1, X32_BIT), (RETURN, 0, 0, RET_ERRNO | ENOSYS)]
    plain: dict[int, int] = {}
    for number, own in sorted(rules.items()):
        if own and not own[0].conditions:
            plain[number] = own[0].action
        elif own:
            code += _unless((JUMP_EQUAL, number), _judged(own, default))
    return code + _search(_ranges(plain, default))


def _judged(rules: tuple[Rule, ...], default: int) -> Code:
    """Return by the first rule that holds."""
    code: Code = []
    for rule in rules:
        body: Code = [(RETURN, 0, 0, rule.action)]
        for condition in reversed(rule.conditions):
            body = _condition(condition, body)
        code += body
    code.append((RETURN, 0, 0, default))
    return code


def _condition(condition: Condition, body: Code) -> Code:
    """Do *body* if the condition holds, and go on behind it if not."""
    low_at = ARGUMENTS_AT + 8 * condition.index + (4 if sys.byteorder == "big" else 0)
    high_at = low_at + 4 if sys.byteorder == "little" else low_at - 4
    low, high = condition.value & 0xFFFFFFFF, condition.value >> 32 & 0xFFFFFFFF
    size = len(body)
    first: Code = [(LOAD, 0, 0, high_at)]
    second: Code = [(LOAD, 0, 0, low_at)]
    operation = condition.operation
    if operation == "&":
        masked = condition.masked
        high_part = [(AND, 0, 0, high), (JUMP_EQUAL, 0, 3 + size, masked >> 32 & 0xFFFFFFFF)]
        low_part = [(AND, 0, 0, low), (JUMP_EQUAL, 0, size, masked & 0xFFFFFFFF)]
        return [*(() if condition.low else (*first, *high_part)), *second, *low_part, *body]
    if operation == "==":
        return [
            *(() if condition.low else (*first, (JUMP_EQUAL, 0, 2 + size, high))),
            *second,
            (JUMP_EQUAL, 0, size, low),
            *body,
        ]
    if operation == "!=":
        head: Code = [] if condition.low else [*first, (JUMP_EQUAL, 0, 2, high)]
        return [*head, *second, (JUMP_EQUAL, size, 0, low), *body]
    # Larger in the high half decides, equal leaves it to the low half.
    upward = operation in {">", ">="}
    test = JUMP_GREATER if operation in {">", "<="} else JUMP_GREATER_EQUAL
    if upward:
        head = [] if condition.low else [*first, (JUMP_GREATER, 3, 0, high), (JUMP_EQUAL, 0, 2 + size, high)]
        return [*head, *second, (test, 0, size, low), *body]
    head = [] if condition.low else [*first, (JUMP_GREATER, 3 + size, 0, high), (JUMP_EQUAL, 0, 2, high)]
    return [*head, *second, (test, size, 0, low), *body]


def _ranges(plain: Mapping[int, int], default: int) -> list[tuple[int, int]]:
    """Return where which action begins, from 0 on."""
    found = [(0, default)]
    after = 0
    for number, action in sorted(plain.items()):
        if number > after and found[-1][1] != default:
            found.append((after, default))
        if found[-1][1] != action:
            if found[-1][0] == number:
                found.pop()
            if not found or found[-1][1] != action:
                found.append((number, action))
        after = number + 1
    if found[-1][1] != default:
        found.append((after, default))
    return found


def _search(ranges: list[tuple[int, int]]) -> Code:
    """Find the range that the number in the accumulator is in."""
    if len(ranges) == 1:
        return [(RETURN, 0, 0, ranges[0][1])]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    start = ranges[middle][0]
    if len(below) <= 255:
        return [(JUMP_GREATER_EQUAL, len(below), 0, start), *below, *above]
    return [(JUMP_GREATER_EQUAL, 0, 1, start), (JUMP, 0, 0, len(below)), *below, *above]


def evaluate(program: bytes, architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """Run a program as the kernel would, for tests and for people who want to know what a filter says."""
    order = "<" if sys.byteorder == "little" else ">"
    data = struct.pack(f"{order}IIQ6Q", number, architecture, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    code = list(struct.iter_unpack(f"{order}HBBI", program))
    accumulator = at = 0
    while True:
        operation, true, false, constant = code[at]
        at += 1
        if operation == LOAD:
            (accumulator,) = struct.unpack_from(f"{order}I", data, constant)
        elif operation == AND:
            accumulator &= constant
        elif operation == JUMP:
            at += constant
        elif operation == RETURN:
            return int(constant)
        else:
            holds = {
                JUMP_EQUAL: accumulator == constant,
                JUMP_GREATER: accumulator > constant,
                JUMP_GREATER_EQUAL: accumulator >= constant,
            }[operation]
            at += true if holds else false


ALLOW = Rule(action=RET_ALLOW)
