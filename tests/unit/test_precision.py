"""A precision that the device does not train in is refused before DeepSpeed raises a bare ValueError."""

import pytest
from deepspeed.accelerator import get_accelerator

from unibert.errors import MachineError
from unibert.runtime import players


@pytest.mark.parametrize(("precision", "other"), [("fp16", "bf16"), ("bf16", "fp16")])
def test_what_the_device_lacks_is_named_with_the_way_out(monkeypatch, precision, other):
    for name in ("fp16", "bf16"):
        monkeypatch.setattr(get_accelerator(), f"is_{name}_supported", lambda name=name: name == other)
    players._refuse_precision({}, name="student")
    players._refuse_precision({other: {"enabled": True}, precision: {"enabled": False}}, name="student")
    with pytest.raises(MachineError, match=rf"engines\.student: .* {precision}, .* enable {other} there instead"):
        players._refuse_precision({precision: {"enabled": True}}, name="student")
