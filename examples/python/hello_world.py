"""Hello world with the unmodified Globus Compute SDK.

With `funcx up` running in another terminal, and the three FUNCX_ lines that it prints pasted into this one:

    venv/bin/python examples/python/hello_world.py
"""

from connect import ENDPOINT, client, result


def hello(name):
    import platform

    return f"hello {name}, this is Python {platform.python_version()}"


gcc = client()
function_id = gcc.register_function(hello)
task_id = gcc.run("world", endpoint_id=ENDPOINT, function_id=function_id)
answer = result(gcc, task_id)
print(answer)
assert answer.startswith("hello world, this is Python 3.")
