from icefarm.errors import _BY_CODE, FarmError, from_error
from icefarm_schemas import Error, ErrorCode


def test_each_code_is_one_exception_class() -> None:
    assert set(_BY_CODE) == set(ErrorCode)
    assert len(set(_BY_CODE.values())) == len(ErrorCode)


def test_an_error_keeps_its_words_and_facts() -> None:
    for code in ErrorCode:
        error = from_error(Error(code=code, message="why", details={"free": 1}))
        assert isinstance(error, FarmError)
        assert (error.code, str(error), error.details) == (code, "why", {"free": 1})
