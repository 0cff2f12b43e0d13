"""The command line: arguments in, words out."""

import contextlib
import functools
import importlib
import importlib.util
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path

from kclr.arguments import parser
from kclr.errors import RunError, SpecError, interrupted, reason
from kclr.keras_backend import require_tensorflow
from kclr.runs.paths import is_full

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(arguments=None) -> int:
    """Run a command of kclr.

    Returns:
        The exit status: 0, 1 for a failed run, 2 for a wrong spec or argument, 130 after Ctrl-C.
    """
    # Looking for plug-ins of pydantic takes as long as reading a spec.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if "keras" not in sys.modules:  # whatever keras.json says, or the environment
        os.environ["KERAS_BACKEND"] = "tensorflow"
    options = parser(COMMANDS).parse_args(arguments)
    if options.debug:
        os.environ["KCLR_DEBUG"] = "1"  # for the processes that a command starts
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(_unraisable, hook)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_warned, warnings.showwarning)
            return options.command(options) or DONE
    except (SpecError, RunError) as error:
        return _refused(
            options, error, str(error), WRONG if isinstance(error, SpecError) else FAILED
        )
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `kclr show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        cure = ". Free disk space and try again." if is_full(error) else ""
        return _refused(options, error, f"{where}{error.strerror or error}{cure}", FAILED)
    except Exception as error:
        if interrupted(error):
            print("\nInterrupted", file=sys.stderr)
            return INTERRUPTED
        words = f"kclr failed because of a bug: {reason(error)}"
        if not options.debug:
            words += f"\nThe traceback is in {_traced(error)}. Please report it with the spec."
        return _refused(options, error, words, FAILED)
    finally:
        sys.unraisablehook = hook


def _unraisable(others, found):
    """Repeat a Ctrl-C that struck where Python drops exceptions, as in a destructor."""
    if issubclass(found.exc_type, KeyboardInterrupt):
        # Here it would be dropped again; and by a signal, which ends a wait, too.
        press = signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
        again = threading.Timer(0.01, *press)
        again.daemon = True
        again.start()
    else:
        others(found)


def _warned(others, message, category, filename, *place):
    """Print a warning of kclr's in its words alone; others as Python does, with file and line."""
    if not Path(filename).is_relative_to(Path(__file__).parent):
        others(message, category, filename, *place)
        return
    from kclr.spec.wording import printable

    print(printable(str(message)), file=sys.stderr)


def _refused(options, error, words, status):
    """Say why a command ends, with `--debug` after the trace, and return its exit status."""
    if options.debug:
        error.__suppress_context__ = False
        traceback.print_exception(error)
    from kclr.spec.wording import printable

    print(*map(printable, words.split("\n")), sep="\n", file=sys.stderr)
    return status


def _init(options):
    from kclr.spec.reading import starter

    path = Path(options.path)
    if path.exists():
        raise SpecError(f"{path} already exists. Choose another name: kclr init NAME")
    text = _fitted(options) if options.data else starter(options.layers or 1)
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()  # half of it, which would be in the way of the next try
                raise
    except FileExistsError:
        raise SpecError(f"{path} already exists. Choose another name: kclr init NAME") from None
    if options.data:
        print("\n".join(line[2:] for line in text.splitlines()[1:2]))
    print(f"{path} was written. Edit it, then: kclr train {path}")


def _fitted(options):
    """A spec that fits the data."""
    from kclr.fitted import fitted_spec, look

    seen = look(_data(options.data))
    return fitted_spec(seen, options.path, options.layers or 3)


def _data(text):
    """A source's name as it is, or the mapping that a text in braces stands for."""
    from kclr.spec.reading import read_yaml

    return read_yaml(text, "--data").value if text.lstrip().startswith("{") else text


def _load(options):
    """The spec, checked as far as that goes without TensorFlow."""
    return _load_with_plain(options)[0]


def _load_with_plain(options):
    """The spec, and its plain value with what `--set` changed."""
    from kclr.data.checks import draft_checked

    overrides = list(options.overrides)
    if getattr(options, "workers", None) and options.command is _train:
        overrides.append("train.distribute=multi-worker")
    made = draft_checked(options.spec, overrides)
    return made.finished(), made.value


def _check(options):
    from kclr.report.tables import print_images, print_spec

    spec = _load(options)
    if options.json:
        # What can be read as a spec again, and nothing else, is on standard output.
        print(json.dumps(spec.model_dump(mode="json"), indent=2))
        print_images(spec, sys.stderr)
        return
    print_spec(spec)
    print_images(spec)


def _train(options):
    from kclr.events import listener_for
    from kclr.training import workers

    spec = _load(options)
    if options.workers and "TF_CONFIG" not in os.environ:
        words = [sys.executable, "-m", *_words(options)]
        words += [f"--{flag}" for flag in ("resume", "overwrite", "json") if getattr(options, flag)]
        with _interruptible(options, _out(options, spec, "runs")):
            workers.launch(words, options.workers, _again(options))
        return
    task = workers.ONLY
    if spec.train.distribute == "multi-worker":
        task = workers.task_from_environment()
        if options.workers not in (None, task.workers):
            raise SpecError(
                f"--workers {options.workers} starts a cluster on this machine, but TF_CONFIG "
                f"describes one of {task.workers} workers. Use only one of the two."
            )
    out = _out(options, spec, "runs")
    listener = listener_for(options.json)
    with _interruptible(options, out), listener:
        _import_tensorflow()
        from kclr.stack import train

        train(
            spec,
            out,
            text=Path(options.spec).read_text(encoding="utf-8"),
            resume=options.resume,
            overwrite=options.overwrite,
            listener=listener,
            name=options.spec,
            profile=options.profile,
        )
    if not options.json and task.index == 0:
        from kclr.report.tables import print_uses

        print_uses(out)


def _out(options, spec, folder):
    from kclr.runs.paths import as_path

    return as_path(options.out or Path(folder) / (spec.name or Path(options.spec).stem))


@contextlib.contextmanager
def _interruptible(options, out):
    """Long work that can be interrupted, run out of disk space or fail, and be continued."""
    # SIGTERM is taken as Ctrl-C is, so that a training that is stopped saves its state.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    again = f"continue with: {_again(options)}"
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nInterrupted; {again}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RunError(
            f"{where}{error.strerror or error}. Finished parts are kept; once this is fixed, "
            f"{again}"
        ) from None
    except (SpecError, RunError):
        raise
    except Exception as error:  # of somebody's plug-in, of Keras, of TensorFlow
        if interrupted(error):
            print(f"\nInterrupted; {again}", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        raise RunError(
            f"{reason(error)}\nThe traceback is in {_traced(error, out)}. Finished parts are "
            f"kept; once this is fixed, {again}"
        ) from error


def _traced(error, out=None):
    """The file that says where an error comes from, in the run `out` where there is one."""
    from kclr.runs.directories import TRACE, kind_of, write_trace

    if out is not None and kind_of(out) and write_trace(out / TRACE, error):
        return out / TRACE
    file = Path(tempfile.mkdtemp(prefix="kclr-"), TRACE)
    write_trace(file, error)
    return file


def _again(options):
    return shlex.join([*_words(options), "--resume"])


def _words(options, workers=True):
    """The command as it was given, without what is done with a run that is there.

    Args:
        options: of the command line.
        workers: whether to continue with as many processes, or as one of them.
    """
    words = ["kclr", options.command.__name__.strip("_"), options.spec]
    for assignment in options.overrides:
        words += ["--set", assignment]
    if options.out:
        words += ["--out", str(options.out)]
    if getattr(options, "allow_code", False):
        words.append("--allow-code")
    if workers and getattr(options, "workers", None):
        words += ["--workers", str(options.workers)]
    return words


def _import_tensorflow():
    """Import TensorFlow without its start-up chatter, which says nothing to a user."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # its C++ side writes to the descriptor itself
        os.dup2(nowhere.fileno(), 2)
    try:
        tensorflow = importlib.import_module("tensorflow")
        tensorflow.config.list_physical_devices()  # where it says that there is no GPU
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    require_tensorflow("kclr")


def _show(options):
    from kclr.runs.run import load_run

    run = load_run(options.run)
    run.check_arrays()
    if options.json:
        print(
            json.dumps(run.summary or {"layers": [layer.facts for layer in run.layers]}, indent=2)
        )
        return
    from kclr.report.tables import print_run

    print_run(run)


def _verify(options):
    from kclr.events import status
    from kclr.verify import print_verification, verify_run

    with status("loading TensorFlow") as tell:
        if options.retrain:
            _import_tensorflow()
        found = verify_run(options.run, options.retrain, tell)
    if options.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print_verification(found)
    return DONE if found.right else FAILED


def _export(options):
    _import_tensorflow()
    from kclr.export import export_run
    from kclr.runs.run import load_run

    run, align = load_run(options.run), None
    if options.alignment:
        from kclr.probing.alignment import of_layers, views_of_run

        views = views_of_run(run)

        def align(layers, pooling):
            return of_layers(layers, pooling, views)[0]

    written = export_run(
        run,
        out=options.out,
        layers=options.layers,
        pool=options.pool,
        grid_size=options.grid_size,
        power=options.power,
        onnx=options.onnx,
        litert=options.litert is not None,
        litert_size=32 if options.litert is None else options.litert,
        all_layers=options.all_layers,
        align=align,
    )
    for path in written:
        print(path)


def _probe(options):
    from kclr.events import status
    from kclr.report.tables import print_probe
    from kclr.runs.run import load_run

    with status("loading TensorFlow") as tell:
        _import_tensorflow()
        from kclr.probing.probe import as_json, probe_run, summaries

        results = probe_run(
            load_run(options.run),
            data=_data(options.data),
            labels=options.labels,
            baselines=options.baselines,
            classifiers=options.classifiers,
            grid=options.grid,
            all_layers=options.all_layers,
            power=options.power,
            flips=options.flips,
            precision=options.precision,
            seed=options.seed,
            repeats=options.repeats,
            limit=options.limit,
            alignment=options.alignment,
            progress=tell,
        )
    if options.json:
        print(json.dumps(as_json(results), indent=2))
    else:
        print_probe(summaries(results))


def _transfer(options):
    from kclr.events import listener_for
    from kclr.transfer.checks import load_transfer

    spec = load_transfer(options.spec, options.overrides, options.allow_code)
    out = _out(options, spec, "transfers")
    with _interruptible(options, out), listener_for(options.json) as listener:
        _import_tensorflow()
        from kclr.transfer import claims
        from kclr.transfer.experiment import failures, print_results, run_experiment

        results = run_experiment(
            spec,
            out,
            text=Path(options.spec).read_text(encoding="utf-8"),
            resume=options.resume,
            overwrite=options.overwrite,
            listener=listener,
            allow_code=options.allow_code,
        )
    if not options.json:
        print_results(results)
        print(f"\n{out / 'results.json'}\nA page with plots: kclr report {out}")
    return FAILED if failures(results) or claims.failed(results) else DONE


def _search(options):
    if importlib.util.find_spec("keras_tuner") is None:
        raise RunError("kclr search needs keras-tuner: pip install 'kclr[search]'")
    from kclr.events import listener_for

    spec, plain = _load_with_plain(options)
    out = _out(options, spec, "searches")
    text = Path(options.spec).read_text(encoding="utf-8")
    listener = listener_for(options.json)
    with _interruptible(options, out), listener:
        _import_tensorflow()
        from kclr.search import running
        from kclr.search.results import print_results
        from kclr.search.workers import supervise

        resume, overwrite = options.resume, options.overwrite
        if options.workers:
            running.check_search(spec, options.spec)
            with running.begun(spec, plain, out, text, resume, overwrite):
                pass  # the processes go on with it
            words = [*_words(options, workers=False)[1:], "--resume"]
            supervise(words, out, options.workers, listener)
            resume, overwrite = True, False  # what is left to do: the table, the plot, best.yaml
        found = running.run_search(
            spec, plain, out, text, resume, overwrite, listener, options.spec
        )
    if found and not options.json:
        print_results(found, out)


def _report(options):
    from kclr.report.page import write_report

    page = write_report(options.paths, options.out)[0]
    print(page)


def _schema(options):
    from kclr.spec.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


COMMANDS = {
    "init": _init,
    "check": _check,
    "train": _train,
    "show": _show,
    "verify": _verify,
    "export": _export,
    "probe": _probe,
    "transfer": _transfer,
    "search": _search,
    "report": _report,
    "schema": _schema,
}
