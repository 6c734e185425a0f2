"""Where what a model wrote is executed: a process without the environment's secrets, bounded in time, memory and reach.

    sql.py       the run's side: SQL on a database made from a script
    sql_child.py the process that executes it, a script that imports nothing of ours
    python.py    Python in Monty, an interpreter made for code that nobody has read (`distillation-workbench[code]`)

A query may read the database and compute, code may compute; the child's own guards see to that, and the run's deadline to the
child. Not here: shell code, and what wants CPython itself. Their processes could undo the limits.
"""

from workbench.sandbox.python import CodeError, PythonSandbox
from workbench.sandbox.sql import QueryError, SqlSandbox

__all__ = ["CodeError", "PythonSandbox", "QueryError", "SqlSandbox"]
