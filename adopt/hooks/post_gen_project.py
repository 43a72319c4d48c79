"""What does cookiecutter run in the helper folder, which stands in the repository? All that follows is in the modules beside."""

import json
import sys

ANSWERS = json.loads({{cookiecutter | jsonify | tojson}})  # type: ignore # noqa: F821 (cookiecutter fills it in: data, not code)
TYPED = json.loads({{typed | tojson | tojson}})  # type: ignore # noqa: F821

sys.dont_write_bytecode = True
sys.path.insert(0, TYPED["template"] + "/adopt")

from adopting import main  # noqa: E402 (found by now)

sys.exit(main(ANSWERS, TYPED))
