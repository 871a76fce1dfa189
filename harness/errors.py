"""The errors that a user can cause, and can put right. Their text is one sentence that says how."""


class UserError(Exception):
    """Base of all errors that come from what the user gave; commands exit with status 2."""

    def __str__(self) -> str:
        """Return the sentence on one line: it quotes names, which may hold any character."""
        return "".join(
            char if char.isprintable() else repr(char)[1:-1] for char in super().__str__()
        )


class ModelError(UserError):
    """The model cannot be loaded, or has not what extraction needs."""


class NoModelError(ModelError):
    """The model cannot be had here: it is not there, out of reach, or does not load."""


class DatasetError(UserError):
    """The questions cannot be loaded, or lack a column, a split or shots."""


class SettingsError(UserError):
    """A setting has a value that the harness does not know."""


class GeometryError(UserError):
    """The points cannot be analysed with these settings."""


class RecordError(UserError):
    """A file of curves or results is not what it should be."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of a library says, to be quoted in one of ours."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def in_a_sentence(error: BaseException) -> str | None:
    """Return what a user can put right: a UserError, a file out of reach, a GPU's full memory.

    None of any other error.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:  # one of the user's files
        return f"{error.filename}: cannot be used ({error.strerror}); mend that, or give another"
    return full_memory(error)


def full_memory(error: BaseException) -> str | None:
    """Return a sentence about a GPU whose memory is full; None of another error.

    Known by its name: torch takes seconds to import.
    """
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return (
        f"the GPU's memory is full ({first_line(error)}); spread the model over several "
        "(--device-map auto; FSDP for a training), or give a smaller --token-budget, or "
        "--cache-budget for an extraction"
    )
