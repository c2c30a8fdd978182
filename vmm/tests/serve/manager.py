"""A manager's backup, with the package `qemu.qmp`: one overlay on each disk in one transaction, then
each of them is committed. (What freezes file systems before and thaws them afterwards is an agent in
the guest.)

manager.py SOCKET DIRECTORY DISK..."""

import asyncio
import os
import sys

from qemu.qmp import EventListener, QMPClient


async def tops(qmp):
    disks = await qmp.execute("query-block")
    return {disk["device"]: disk["inserted"]["file"] for disk in disks}


async def back_up(qmp, directory, disks):
    before = await tops(qmp)
    overlays = {disk: f"{directory}/{disk}.overlay" for disk in disks}
    actions = [
        {
            "type": "blockdev-snapshot-sync",
            "data": {"device": disk, "snapshot-file": overlay},
        }
        for disk, overlay in overlays.items()
    ]
    await qmp.execute("transaction", {"actions": actions})
    assert await tops(qmp) == before | overlays
    # Here the images below the overlays are copied.
    await asyncio.gather(*(commit(qmp, disk) for disk in disks))
    assert await tops(qmp) == before
    assert await qmp.execute("query-jobs") == []


async def commit(qmp, disk):
    job = f"commit-{disk}"

    def is_mine(event):
        data = event["data"]
        return data.get("device", data.get("id")) == job

    names = ("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "JOB_STATUS_CHANGE")
    with qmp.listener(names, is_mine) as events:
        arguments = {"device": disk, "job-id": job, "auto-dismiss": False}
        await qmp.execute("block-commit", arguments)
        async for event in events:
            if event["event"] == "BLOCK_JOB_READY":
                await qmp.execute("job-complete", {"id": job})
            elif event["event"] == "BLOCK_JOB_COMPLETED":
                assert "error" not in event["data"], event
            elif event["data"]["status"] == "concluded":
                break
    jobs = await qmp.execute("query-jobs")
    [mine] = [one for one in jobs if one["id"] == job]
    assert mine["status"] == "concluded" and "error" not in mine, mine
    assert mine["current-progress"] == mine["total-progress"] > 0, mine
    await qmp.execute("job-dismiss", {"id": job})


async def main(socket, directory, *disks):
    qmp = QMPClient("manager")
    await qmp.connect(socket)
    for _ in range(3):
        await back_up(qmp, directory, disks)
        for disk in disks:
            os.remove(f"{directory}/{disk}.overlay")
    await qmp.disconnect()



asyncio.run(main(*sys.argv[1:]))
