import subprocess
import sys


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = (
        "import sys, unibert.evaluate; print([m for m in ('torch', 'matplotlib', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
