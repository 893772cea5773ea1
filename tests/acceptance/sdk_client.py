"""Run by the Python of the SDK's own environment: the official SDK, unchanged, against the given base and key.

Prints one JSON object of what it got.
"""

import asyncio
import json
import sys

from skyvern import Skyvern
from skyvern.client.core.api_error import ApiError


async def main(base_url: str, api_key: str, webhook: str) -> dict[str, object]:
    client = Skyvern(api_key=api_key, base_url=base_url)
    task = await client.run_task(
        prompt="Get the price",
        title="by the SDK",
        webhook_url=webhook,
        wait_for_completion=True,
        timeout=60,
    )
    flow = await client.run_workflow(workflow_id="wpid_1", parameters={"a": 1}, wait_for_completion=True, timeout=60)
    again = await client.retry_run_webhook(task.run_id)
    elsewhere = await client.retry_run_webhook(task.run_id, request={"webhook_url": webhook + "/other"})
    login = await client.login(credential_type="skyvern", credential_id="cred_1", url="https://shop.example")
    going = await client.run_task(prompt="Stop me [queue]")
    cancelled = await client.cancel_run(going.run_id)
    artifacts = await client.get_run_artifacts(task.run_id)
    errors = {}
    for name, call in (
        ("missing", lambda: client.get_run("tsk_nowhere")),
        ("busy", lambda: client.run_task(prompt="x [429]")),
        ("stranger", lambda: Skyvern(api_key="nobody", base_url=base_url).get_run(task.run_id)),
    ):
        try:
            await call()
        except ApiError as error:
            errors[name] = [error.status_code, error.body]
    return {
        "task": [type(task).__name__, task.run_id, str(task.status), bool(task.output)],
        "flow": [type(flow).__name__, flow.run_id, str(flow.status)],
        "cancelled": [going.run_id, cancelled],
        "artifacts": len(artifacts),
        "again": [type(again).__name__, again.run_id, again.status_code, again.error],
        "elsewhere": [elsewhere.target_webhook_url, elsewhere.status_code, elsewhere.error],
        "login": login.run_id,
        "errors": errors,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:])), default=str) + "\n")
