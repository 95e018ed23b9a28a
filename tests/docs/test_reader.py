"""The reader of pages: what is right passes, and what is wrong is found."""

import os
from pathlib import Path

import pytest
from docs.page import steps
from docs.reader import WrongPageError, follow

RIGHT = """
```python title="count.py"
for number in range(3):
    print("number", number)
```

```console
$ python3 count.py
number 0
number ...
number 2
$ cd /
$ pwd
/
$ false
$ echo $?
1
$ seq 100
1
...
100
```

```console title="First terminal"
$ python3 -c 'print("waits", flush=True); import time; time.sleep(600)'
waits
```

```console title="Second terminal"
$ echo "meanwhile"
meanwhile
```

```console title="First terminal"
^CTraceback (most recent call last):
...
KeyboardInterrupt
$ echo $?
130
```

```console title="Second terminal"
$ echo asks; read answer; echo "$answer"
asks
^C
$ echo $?
130
```
"""


def follow_text(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    follow(page, tmp_path, {**os.environ, "LANG": "C.UTF-8"}, [])


def test_a_page_that_is_right(tmp_path: Path) -> None:
    follow_text(RIGHT, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("number 2\n$", "number 3\n$", "page.md:8: python3 count.py shows"),
        ("number 2\n$", "$", "python3 count.py shows"),
        ("number 0\n", "number ...1\n", "python3 count.py shows"),
        ("range(3)", "rnge(3)", "python3 count.py shows"),
        ("$ pwd\n/\n", "$ pwd\n/home\n", "pwd shows\n/\n\ninstead of\n/home"),
        ("$ false\n$ echo $?\n1\n", "$ false\n", "false ends with 1"),
        ("1\n...\n100", "2\n...\n100", "seq 100 shows"),
        ("time.sleep(600)", "time.sleep(0)", "shows"),
        ("...\nKeyboardInterrupt", "...\nOSError", "Ctrl-C shows"),
    ],
)
def test_a_page_that_is_wrong(right: str, wrong: str, found: str, tmp_path: Path) -> None:
    assert RIGHT.count(right) == 1
    with pytest.raises(WrongPageError) as raised:
        follow_text(RIGHT.replace(right, wrong), tmp_path)
    assert found in str(raised.value)


@pytest.mark.parametrize("block", ["```python\nprint()\n```\n", "```sh\n$ ls\n```\n"])
def test_a_block_that_nobody_can_follow(block: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(block)
    with pytest.raises(ValueError, match=r"page\.md:1: a reader cannot know"):
        steps(page)
